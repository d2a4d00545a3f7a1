"""OpenTelemetry, for whoever asks for it by its own variables, and free of cost for others.

    settings.py    what asks for it
    lifecycle.py    starts it with the service, and lets the end of the service wait for it, a while
    exporters.py   who sends it: the only file that imports the SDK, which is an extra
    spans.py       a span for each statement
    metrics.py      what a pool is asked for

The spans and the metrics of requests are FastAPI's own. Where the SDK is set up by somebody else, by
`opentelemetry-instrument` say, it gets all of this too.
"""
