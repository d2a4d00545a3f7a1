"""Who sends telemetry: OTLP over HTTP. Imported where it is asked for only: it needs the extra."""

from opentelemetry import metrics, trace
from opentelemetry.exporter.otlp.proto.http.metric_exporter import OTLPMetricExporter
from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import PeriodicExportingMetricReader
from opentelemetry.sdk.resources import SERVICE_NAME, SERVICE_VERSION, Resource
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor

from app import NAME, __version__

# None of them waits for the collector when the process exits: `lifecycle.flush` does, for a while.


def export_traces() -> TracerProvider:
    """Send spans, from now on and in the whole process."""
    provider = TracerProvider(resource=name_of_service(), shutdown_on_exit=False)
    provider.add_span_processor(BatchSpanProcessor(OTLPSpanExporter()))
    trace.set_tracer_provider(provider)
    return provider


def export_metrics() -> MeterProvider:
    """Send metrics, from now on and in the whole process."""
    reader = PeriodicExportingMetricReader(OTLPMetricExporter())
    provider = MeterProvider([reader], resource=name_of_service(), shutdown_on_exit=False)
    metrics.set_meter_provider(provider)
    return provider


def name_of_service() -> Resource:
    """Return what we are called; OTEL_SERVICE_NAME and OTEL_RESOURCE_ATTRIBUTES go before it."""
    resource = Resource({SERVICE_VERSION: __version__}).merge(Resource.create())
    if str(resource.attributes[SERVICE_NAME]).startswith("unknown_service"):
        return resource.merge(Resource({SERVICE_NAME: NAME}))
    return resource
