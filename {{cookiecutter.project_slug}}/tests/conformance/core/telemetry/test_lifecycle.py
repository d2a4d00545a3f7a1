"""Telemetry: the variables that switch it on, their validation, and the flush at shutdown."""

import os
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread

import httpx2
import pytest

from app import NAME, __version__
from app.core.config import variable
from app.core.db import ConfigurationError
from app.core.telemetry import lifecycle
from app.core.telemetry.exporters import service_resource
from app.core.telemetry.lifecycle import FLUSH_TIMEOUT
from tests.harness.backends import Backend
from tests.processes import SECONDS_TO_STOP, serving
from tests.support import USERS

ROOT = Path(__file__).parents[4]
VARIABLES = {"PYTHONPATH": str(ROOT), "PATH": os.environ["PATH"]}

SECONDS_OF_AN_EXPORT = 120

OFF = """
import asyncio, os, sys, threading
from app.main import create_app
from app.core.db import session_scope, get_engine
from sqlalchemy import text

HEAVY = ("opentelemetry.sdk", "opentelemetry.exporter", "opentelemetry.proto", "requests")
ENDPOINT = {"OTEL_EXPORTER_OTLP_ENDPOINT": "http://127.0.0.1:1"}
NONE = {"OTEL_TRACES_EXPORTER": "none", "OTEL_METRICS_EXPORTER": "none"}

async def start():
    app = create_app()
    async with app.router.lifespan_context(app):
        async with session_scope() as session:
            await session.execute(text("SELECT 1"))
        print(
            [name for name in sys.modules if name.startswith(HEAVY)],
            [name for name in vars(get_engine().dialect) if name.startswith("do_")],
            [thread.name for thread in threading.enumerate() if "Otel" in thread.name],
        )

for variables in (
    {},
    {"OTEL_SERVICE_NAME": "s", "OTEL_TRACES_EXPORTER": "otlp", "OTEL_METRICS_EXPORTER": "otlp"},
    ENDPOINT | NONE,
    ENDPOINT | {"OTEL_SDK_DISABLED": "True"},
):
    os.environ.update(variables)
    asyncio.run(start())
    for name in variables:
        del os.environ[name]
"""

WITHOUT_THE_EXTRA = """
import sys
sys.modules["opentelemetry.sdk"] = sys.modules["opentelemetry.exporter"] = None
from app.__main__ import main
try:
    sys.argv[1:] = ["migrate"]
    main()
except SystemExit as ended:
    print(f"migrate: {ended.code}")
sys.argv[1:] = ["serve"]
main()
"""


def python(script: str, *, folder: Path, **variables: str) -> tuple[int, str, str]:
    ended = subprocess.run(
        [sys.executable, "-c", script],
        capture_output=True,
        check=False,
        cwd=folder,
        env=VARIABLES | variables,
        text=True,
    )
    return ended.returncode, ended.stdout, ended.stderr


def test_sdk_is_not_imported_if_telemetry_is_off(tmp_path: Path) -> None:
    ended = python(OFF, folder=tmp_path, DATABASE_URL="sqlite://")

    assert (0, "[] [] []\n" * 4, "") == ended


def test_missing_extra_is_reported_by_serve_in_one_sentence_and_not_needed_by_migrate(
    tmp_path: Path,
) -> None:
    code, stdout, stderr = python(
        WITHOUT_THE_EXTRA,
        folder=tmp_path,
        OTEL_EXPORTER_OTLP_ENDPOINT="http://127.0.0.1:1",
    )

    assert stdout.endswith("migrate: 0\n"), stderr
    assert code == 1
    assert stderr.startswith("error: OTEL_EXPORTER_OTLP_ENDPOINT switches telemetry on, but ")
    assert stderr.endswith("install the extra `telemetry`, or set OTEL_SDK_DISABLED=true\n")
    assert len(stderr.splitlines()) == 1


HTTP = "it must be an http:// or https:// URL"
SECRET = "it must not contain a secret: use OTEL_EXPORTER_OTLP_HEADERS"
HEADERS = "it must be name=value,name=value, each value URL-encoded"
REFUSED = [
    ("OTEL_TRACES_EXPORTER", "hidden", "Input should be 'otlp' or 'none'"),
    ("OTEL_METRICS_EXPORTER", "prometheus", "Input should be 'otlp' or 'none'"),
    ("OTEL_EXPORTER_OTLP_PROTOCOL", "grpc", "Input should be 'http/protobuf'"),
    ("OTEL_EXPORTER_OTLP_METRICS_PROTOCOL", "http/json", "Input should be 'http/protobuf'"),
    ("OTEL_EXPORTER_OTLP_ENDPOINT", "collector:4318", HTTP),
    ("OTEL_EXPORTER_OTLP_ENDPOINT", "http://", HTTP),
    ("OTEL_EXPORTER_OTLP_ENDPOINT", "http://u:hidden@\u2100", HTTP),
    ("OTEL_EXPORTER_OTLP_ENDPOINT", "http://u:hidden@collector", SECRET),
    ("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", "http://collector/v1/traces?key=hidden", SECRET),
    ("OTEL_EXPORTER_OTLP_HEADERS", "Authorization: Bearer hidden", HEADERS),
    ("OTEL_EXPORTER_OTLP_HEADERS", "a=b,Authorization=Bearer;hidden", HEADERS),
    ("OTEL_EXPORTER_OTLP_HEADERS", "Authorization=Bearer hiddenü", HEADERS),
    ("OTEL_EXPORTER_OTLP_HEADERS", "Authorization=Bearer%E2%82%AChidden", HEADERS),
    ("OTEL_EXPORTER_OTLP_TRACES_HEADERS", "Authorization=Bearer%0Ahidden", HEADERS),
]


@pytest.mark.parametrize(("name", "value", "message"), REFUSED)
def test_invalid_value_is_refused_in_one_sentence_that_hides_it(
    environment: pytest.MonkeyPatch, name: str, value: str, message: str
) -> None:
    environment.setenv(name, value)

    with pytest.raises(ConfigurationError) as error:
        lifecycle.check()

    assert str(error.value) == f"{name}: {message}"


@pytest.mark.parametrize("name", sorted({name for name, _, _ in REFUSED}))
def test_invalid_value_is_ignored_if_the_sdk_is_disabled(
    environment: pytest.MonkeyPatch, name: str
) -> None:
    environment.setenv(name, "http://[hidden")
    environment.setenv("OTEL_SDK_DISABLED", "true")

    assert not lifecycle.check().traces


@pytest.mark.parametrize(
    "headers", ["Authorization=Bearer a.b-c_d==", "authorization=Basic%20YTpi , x-team = blue,"]
)
def test_headers_that_the_sdk_accepts_are_accepted(
    environment: pytest.MonkeyPatch, headers: str, caplog: pytest.LogCaptureFixture
) -> None:
    from opentelemetry.util.re import parse_env_headers  # noqa: PLC0415

    environment.setenv("OTEL_EXPORTER_OTLP_HEADERS", headers)
    lifecycle.check()

    assert "authorization" in parse_env_headers(headers, liberal=True)
    assert caplog.records == []


@pytest.mark.parametrize("headers", [value for name, value, _ in REFUSED if "HEADERS" in name])
def test_refused_headers_are_ignored_by_the_sdk_or_cannot_be_sent(headers: str) -> None:
    from opentelemetry.util.re import parse_env_headers  # noqa: PLC0415

    value = parse_env_headers(headers, liberal=True).get("authorization")
    assert value is None or not (value.isascii() and value.isprintable())


def test_traces_and_metrics_can_be_exported_separately(environment: pytest.MonkeyPatch) -> None:
    environment.setenv("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", "https://collector/v1/traces")
    traces = lifecycle.check()
    environment.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", "https://collector")
    environment.setenv("OTEL_TRACES_EXPORTER", "none")
    metrics = lifecycle.check()

    assert (True, False) == (traces.traces, traces.metrics)
    assert (False, True) == (metrics.traces, metrics.metrics)


@pytest.mark.parametrize(
    ("name", "value"),
    [("OTEL_SERVICE_NAME", "other"), ("OTEL_RESOURCE_ATTRIBUTES", "service.name=other")],
)
def test_service_name_can_be_overridden(
    environment: pytest.MonkeyPatch, name: str, value: str
) -> None:
    assert service_resource().attributes["service.name"] == NAME
    environment.setenv(name, value)

    assert service_resource().attributes["service.name"] == "other"


class Collector(ThreadingHTTPServer):
    """An OTLP collector that stores every request."""

    def __init__(self) -> None:
        self.received: list[tuple[str, str | None, bytes]] = []
        super().__init__(("127.0.0.1", 0), Receive)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}"

    def wait_for(self, text: bytes, path: str, seconds: float = 10) -> None:
        deadline = time.monotonic() + seconds
        while text not in self.body(path):
            assert time.monotonic() < deadline, f"{text!r} was not sent"
            time.sleep(0.01)

    def body(self, path: str) -> bytes:
        return b"".join(body for to, _, body in self.received if to == path)


class Receive(BaseHTTPRequestHandler):
    server: Collector

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"]))
        self.server.received.append((self.path, self.headers["Authorization"], body))
        self.send_response(200)
        self.send_header("Content-Length", "0")
        self.end_headers()

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002
        pass


@contextmanager
def collecting() -> Iterator[Collector]:
    with Collector() as collector:
        thread = Thread(target=collector.serve_forever, args=[0.05])
        thread.start()
        try:
            yield collector
        finally:
            collector.shutdown()
            thread.join()


@pytest.mark.sqlite  # test_spans.py tests the spans of each kind of database
def test_spans_and_metrics_are_exported_and_flushed_at_shutdown(
    backend: Backend, tmp_path: Path
) -> None:
    urls = {variable(name): url for name, url in backend.migrated().items()}
    with collecting() as collector:
        sent = {
            "OTEL_EXPORTER_OTLP_ENDPOINT": collector.url,
            "OTEL_EXPORTER_OTLP_HEADERS": "Authorization=Bearer hidden",
            "OTEL_METRIC_EXPORT_INTERVAL": "100",  # milliseconds
            "FASTAPI_OTEL_AUTO_CONFIGURE": "true",  # not needed, but allowed
            "OTEL_RESOURCE_ATTRIBUTES": "deployment.environment.name=blue",
        }
        with serving(variables=VARIABLES | urls | sent, folder=tmp_path) as served:
            httpx2.get(f"{served.url}{USERS}").raise_for_status()
            collector.wait_for(b"primary read-only", "/v1/metrics")
            served.process.terminate()

            assert served.exit_code() == 0

    traces, metrics = collector.body("/v1/traces"), collector.body("/v1/metrics")
    for text in (NAME.encode(), __version__.encode(), b"deployment.environment.name", b"blue"):
        assert text in traces
        assert text in metrics
    assert f"GET {USERS}".encode() in traces
    assert b"SELECT primary" in traces
    assert b"http.server.request.duration" in metrics
    assert {authorization for _, authorization, _ in collector.received} == {"Bearer hidden"}
    assert "hidden" not in served.log.read_text()


def test_collector_that_does_not_respond_delays_only_the_shutdown_and_not_without_end(
    tmp_path: Path,
) -> None:
    """The collector accepts connections and never responds: only FLUSH_TIMEOUT ends the wait."""
    assert FLUSH_TIMEOUT < SECONDS_TO_STOP < SECONDS_OF_AN_EXPORT
    with socket.create_server(("127.0.0.1", 0)) as silent:
        endpoint = {
            "OTEL_EXPORTER_OTLP_ENDPOINT": f"http://127.0.0.1:{silent.getsockname()[1]}",
            "OTEL_EXPORTER_OTLP_HEADERS": "Authorization=Bearer hidden",
            "OTEL_EXPORTER_OTLP_TIMEOUT": str(SECONDS_OF_AN_EXPORT),
            "OTEL_BSP_SCHEDULE_DELAY": "10",  # milliseconds: exports begin during the requests
        }
        with serving(variables=VARIABLES | endpoint, folder=tmp_path) as served:
            httpx2.get(f"{served.url}/openapi.json").raise_for_status()
            silent.settimeout(30)  # seconds
            silent.accept()[0].close()
            httpx2.get(f"{served.url}/openapi.json").raise_for_status()
            served.process.terminate()

            assert served.exit_code() == 0

    log = served.log.read_text()
    assert "Telemetry of the last seconds is lost" in log
    assert "Traceback" not in log
    assert "hidden" not in log


def test_tracer_provider_of_another_tool_is_kept(tmp_path: Path) -> None:
    """`opentelemetry-instrument` sets one; it reads the same variables, and more."""
    script = """
from opentelemetry import trace
from opentelemetry.sdk.trace import TracerProvider
theirs = TracerProvider()
trace.set_tracer_provider(theirs)
from app.core.telemetry import lifecycle
from app.core.telemetry.exporters import service_resource
lifecycle.start()
print(trace.get_tracer_provider() is theirs, theirs._active_span_processor._span_processors)
"""
    ended = python(
        script,
        folder=tmp_path,
        OTEL_EXPORTER_OTLP_ENDPOINT="http://127.0.0.1:1",
        OTEL_EXPORTER_OTLP_PROTOCOL="grpc",
    )

    assert (0, "True ()\n", "") == ended
