"""OpenTelemetry, switched on by its own environment variables. Start reading in `lifecycle.py`.

    settings.py    the OTEL_ variables that switch it on
    lifecycle.py   start with the service; flush at its end
    exporters.py   OTLP over HTTP; the only module that imports the SDK, which is an extra
    spans.py       a span for each statement
    metrics.py     the state of the connection pools

FastAPI itself makes the spans and metrics of requests. If something else configures the SDK (such
as `opentelemetry-instrument`), spans and metrics go there. Telemetry that is off costs no time.
"""
