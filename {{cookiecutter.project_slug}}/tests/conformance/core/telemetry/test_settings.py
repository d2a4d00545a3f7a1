"""The OTEL_ variables that switch telemetry on."""

import pytest

from app.core.telemetry import lifecycle


def test_telemetry_is_off_without_an_endpoint() -> None:
    assert not lifecycle.check().traces
    assert not lifecycle.check().metrics


def test_endpoint_switches_traces_and_metrics_on(environment: pytest.MonkeyPatch) -> None:
    environment.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", "https://collector")

    assert lifecycle.check().traces
    assert lifecycle.check().metrics
