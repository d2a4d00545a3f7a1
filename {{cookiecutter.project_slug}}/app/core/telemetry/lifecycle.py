"""Start telemetry with the service, and flush it when the service stops."""

import asyncio
import logging
from threading import Thread
from time import monotonic
from types import ModuleType
from typing import TYPE_CHECKING

from app.core.config import read_settings
from app.core.database.errors import ConfigurationError
from app.core.telemetry.metrics import observe_pools
from app.core.telemetry.settings import TelemetrySettings
from app.core.telemetry.spans import has_tracer_provider

if TYPE_CHECKING:
    from fastapi.telemetry import TelemetryConfig
    from opentelemetry.sdk.metrics import MeterProvider
    from opentelemetry.sdk.trace import TracerProvider

FLUSH_TIMEOUT = 3.0  # seconds

# FastAPI's automatic set-up only warns about a wrong variable, and waits 30 s for a collector that
# does not respond. Its log records repeat exception messages, which the service logs itself.
FASTAPI_CONFIG: "TelemetryConfig" = {"auto_configure": False, "logs": False}

logger = logging.getLogger(__name__)

# A process can set its global providers only once.
_providers: list["TracerProvider | MeterProvider"] = []


def check() -> TelemetrySettings:
    """Return the settings, with nothing to export if a tracer provider is set already.

    Raises:
        ConfigurationError: a variable is wrong, or the extra is not installed.
    """
    if has_tracer_provider():
        return TelemetrySettings.model_construct()
    settings = read_settings(TelemetrySettings)
    if settings.traces or settings.metrics:
        _exporters()
    return settings


def start() -> None:
    """Start the exporters that the settings ask for. Engines created later trace their statements.

    Raises:
        ConfigurationError: see `check`.
    """
    observe_pools()
    if _providers:
        return
    settings = check()
    if settings.traces:
        _providers.append(_exporters().export_traces())
    if settings.metrics:
        _providers.append(_exporters().export_metrics())


async def flush() -> None:
    """Send the remaining telemetry; wait for it at most `FLUSH_TIMEOUT` seconds."""
    threads = [
        Thread(target=_flush, args=[provider], daemon=True)  # the process can exit meanwhile
        for provider in _providers
    ]
    for thread in threads:
        thread.start()
    end = monotonic() + FLUSH_TIMEOUT
    for thread in threads:
        await asyncio.to_thread(thread.join, max(end - monotonic(), 0))
    if any(thread.is_alive() for thread in threads):
        logger.warning("Telemetry of the last seconds is lost: the collector does not respond.")


def _flush(provider: "TracerProvider | MeterProvider") -> None:
    try:
        provider.force_flush()
    except Exception as error:
        logger.warning("Telemetry of the last seconds is lost: %s", type(error).__name__)


def _exporters() -> ModuleType:
    try:
        from app.core.telemetry import exporters  # noqa: PLC0415
    except ImportError as error:
        raise ConfigurationError(
            f"OTEL_EXPORTER_OTLP_ENDPOINT switches telemetry on, but {error.name} is not "
            "installed: install the extra `telemetry`, or set OTEL_SDK_DISABLED=true"
        ) from None
    return exporters
