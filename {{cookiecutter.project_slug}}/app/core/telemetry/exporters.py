"""OTLP exporters for traces and metrics. Imported on demand: it needs the extra `telemetry`."""

from opentelemetry import metrics, trace
from opentelemetry.exporter.otlp.proto.http.metric_exporter import OTLPMetricExporter
from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import PeriodicExportingMetricReader
from opentelemetry.sdk.resources import SERVICE_NAME, SERVICE_VERSION, Resource
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor

from app import NAME, __version__

# shutdown_on_exit=False: when the process exits, the SDK would wait for the collector much longer
# than `lifecycle.flush` does.


def export_traces() -> TracerProvider:
    """Set the global tracer provider: spans of the whole process are sent from now on."""
    provider = TracerProvider(resource=service_resource(), shutdown_on_exit=False)
    provider.add_span_processor(BatchSpanProcessor(OTLPSpanExporter()))
    trace.set_tracer_provider(provider)
    return provider


def export_metrics() -> MeterProvider:
    """Set the global meter provider: metrics of the whole process are sent from now on."""
    reader = PeriodicExportingMetricReader(OTLPMetricExporter())
    provider = MeterProvider([reader], resource=service_resource(), shutdown_on_exit=False)
    metrics.set_meter_provider(provider)
    return provider


def service_resource() -> Resource:
    """Return the service's name and version. The OTEL_ variables override them."""
    resource = Resource({SERVICE_VERSION: __version__}).merge(Resource.create())
    if str(resource.attributes[SERVICE_NAME]).startswith("unknown_service"):
        return resource.merge(Resource({SERVICE_NAME: NAME}))
    return resource
