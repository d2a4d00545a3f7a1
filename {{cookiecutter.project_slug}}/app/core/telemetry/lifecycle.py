"""Telemetry starts with the service, and the end of the service waits for it, a while."""

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
from app.core.telemetry.spans import spans_are_wanted

if TYPE_CHECKING:
    from fastapi.telemetry import TelemetryConfig
    from opentelemetry.sdk.metrics import MeterProvider
    from opentelemetry.sdk.trace import TracerProvider

TIME_TO_FLUSH = 3.0  # seconds

# FastAPI's own set-up of exporters says what is wrong in a warning only, and waits half a minute for
# a collector that is away. Its log records hold the messages of exceptions; the service has a log.
FASTAPI: "TelemetryConfig" = {"auto_configure": False, "logs": False}

logger = logging.getLogger(__name__)

# OpenTelemetry lets a process set them once.
_providers: list["TracerProvider | MeterProvider"] = []


def check() -> TelemetrySettings:
    """Return what is asked for; nothing is, where the SDK is set up already.

    Raises:
        ConfigurationError: a variable is wrong, or the extra is not installed.
    """
    if spans_are_wanted():
        return TelemetrySettings.model_construct()
    settings = read_settings(TelemetrySettings)
    if settings.traces or settings.metrics:
        _exporters()
    return settings


def start() -> None:
    """Send what is asked for. The engines that are made from now on tell of their statements.

    Raises:
        ConfigurationError: as `check` does.
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
    """Wait until what there is has been sent, but no longer than `TIME_TO_FLUSH`."""
    threads = [
        Thread(target=_flush, args=[provider], daemon=True)  # an exit does not wait for a daemon
        for provider in _providers
    ]
    for thread in threads:
        thread.start()
    end = monotonic() + TIME_TO_FLUSH
    for thread in threads:
        await asyncio.to_thread(thread.join, max(end - monotonic(), 0))
    if any(thread.is_alive() for thread in threads):
        logger.warning("Telemetry of the last seconds is lost: the collector does not take it.")


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
            f"OTEL_EXPORTER_OTLP_ENDPOINT asks for telemetry, and {error.name} is not installed: "
            "install the extra `telemetry`, or set OTEL_SDK_DISABLED=true"
        ) from None
    return exporters
