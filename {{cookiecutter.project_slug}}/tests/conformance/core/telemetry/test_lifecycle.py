"""What switches telemetry on, what does not, and what the end of the service waits for."""

import os
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
from app.core.telemetry.exporters import name_of_service
from app.core.telemetry.lifecycle import TIME_TO_FLUSH
from tests.harness.backends import Backend
from tests.processes import serving

ROOT = Path(__file__).parents[4]
VARIABLES = {"PYTHONPATH": str(ROOT), "PATH": os.environ["PATH"]}

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
main()
"""


def python(script: str, *arguments: str, folder: Path, **variables: str) -> tuple[int, str, str]:
    ended = subprocess.run(
        [sys.executable, "-c", script, *arguments],
        capture_output=True,
        check=False,
        cwd=folder,
        env=VARIABLES | variables,
        text=True,
    )
    return ended.returncode, ended.stdout, ended.stderr


def test_what_is_not_asked_for_is_not_imported(tmp_path: Path) -> None:
    ended = python(OFF, folder=tmp_path, DATABASE_URL="sqlite://")

    assert (0, "[] [] []\n" * 4, "") == ended


def test_extra_that_is_missing_is_named_in_one_sentence(tmp_path: Path) -> None:
    code, _, said = python(
        WITHOUT_THE_EXTRA,
        "serve",
        folder=tmp_path,
        OTEL_EXPORTER_OTLP_ENDPOINT="http://127.0.0.1:1",
    )

    assert code == 1
    assert said.startswith("error: OTEL_EXPORTER_OTLP_ENDPOINT asks for telemetry, and ")
    assert said.endswith("install the extra `telemetry`, or set OTEL_SDK_DISABLED=true\n")
    assert len(said.splitlines()) == 1


def test_extra_is_not_needed_for_what_is_not_served(tmp_path: Path) -> None:
    endpoint = "http://127.0.0.1:1"
    ended = python(
        WITHOUT_THE_EXTRA, "migrate", folder=tmp_path, OTEL_EXPORTER_OTLP_ENDPOINT=endpoint
    )

    assert ended[0] == 0


HTTP = "it has to be an http:// or https:// URL"
SECRET = "what is secret belongs into OTEL_EXPORTER_OTLP_HEADERS"
HEADERS = "it has to be name=value,name=value, each value URL-encoded"
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
def test_wrong_value_is_refused_in_one_sentence_without_it(
    environment: pytest.MonkeyPatch, name: str, value: str, message: str
) -> None:
    environment.setenv(name, value)

    with pytest.raises(ConfigurationError) as error:
        lifecycle.check()

    assert str(error.value) == f"{name}: {message}"


@pytest.mark.parametrize("name", sorted({name for name, _, _ in REFUSED}))
def test_wrong_value_is_nobodys_business_where_telemetry_is_disabled(
    environment: pytest.MonkeyPatch, name: str
) -> None:
    environment.setenv(name, "http://[hidden")
    environment.setenv("OTEL_SDK_DISABLED", "true")

    assert not lifecycle.check().traces


@pytest.mark.parametrize(
    "headers", ["Authorization=Bearer a.b-c_d==", "authorization=Basic%20YTpi , x-team = blue,"]
)
def test_headers_that_the_sdk_sends_are_accepted(
    environment: pytest.MonkeyPatch, headers: str, caplog: pytest.LogCaptureFixture
) -> None:
    from opentelemetry.util.re import parse_env_headers  # noqa: PLC0415

    environment.setenv("OTEL_EXPORTER_OTLP_HEADERS", headers)
    lifecycle.check()

    assert "authorization" in parse_env_headers(headers, liberal=True)
    assert caplog.records == []


@pytest.mark.parametrize("headers", [value for name, value, _ in REFUSED if "HEADERS" in name])
def test_headers_that_the_sdk_leaves_out_are_refused(headers: str) -> None:
    """Or that cannot be sent: there are no others which are refused."""
    from opentelemetry.util.re import parse_env_headers  # noqa: PLC0415

    value = parse_env_headers(headers, liberal=True).get("authorization")
    assert value is None or not (value.isascii() and value.isprintable())


def test_each_signal_can_be_asked_for_alone(environment: pytest.MonkeyPatch) -> None:
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
def test_service_may_be_given_another_name(
    environment: pytest.MonkeyPatch, name: str, value: str
) -> None:
    assert name_of_service().attributes["service.name"] == NAME
    environment.setenv(name, value)

    assert name_of_service().attributes["service.name"] == "other"


class Collector(ThreadingHTTPServer):
    """What takes OTLP over HTTP, and keeps it."""

    def __init__(self) -> None:
        self.received: list[tuple[str, str | None, bytes]] = []
        super().__init__(("127.0.0.1", 0), Receive)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}"

    def wait_for(self, told: bytes, path: str, seconds: float = 10) -> None:
        deadline = time.monotonic() + seconds
        while told not in self.body(path):
            assert time.monotonic() < deadline, f"{told!r} is not sent"
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


def test_spans_and_metrics_are_sent_and_the_end_waits_for_the_last(
    backend: Backend, tmp_path: Path
) -> None:
    urls = {variable(name): url for name, url in backend.migrated().items()}
    with collecting() as collector:
        sent = {
            "OTEL_EXPORTER_OTLP_ENDPOINT": collector.url,
            "OTEL_EXPORTER_OTLP_HEADERS": "Authorization=Bearer hidden",
            "OTEL_METRIC_EXPORT_INTERVAL": "100",  # milliseconds
            "FASTAPI_OTEL_AUTO_CONFIGURE": "true",  # which is not needed, and does no harm
            "OTEL_RESOURCE_ATTRIBUTES": "deployment.environment.name=blue",
        }
        with serving(variables=VARIABLES | urls | sent, folder=tmp_path) as served:
            httpx2.get(f"{served.url}/users").raise_for_status()
            collector.wait_for(b"primary read-only", "/v1/metrics")
            served.process.terminate()

            assert served.exit_code() == 0

    traces, metrics = collector.body("/v1/traces"), collector.body("/v1/metrics")
    for told in (NAME.encode(), __version__.encode(), b"deployment.environment.name", b"blue"):
        assert told in traces
        assert told in metrics
    assert b"GET /users" in traces
    assert b"SELECT primary" in traces
    assert b"http.server.request.duration" in metrics
    assert {authorization for _, authorization, _ in collector.received} == {"Bearer hidden"}
    assert "hidden" not in served.log.read_text()


def test_collector_that_does_not_answer_delays_no_request_and_the_end_for_a_while_only(
    tmp_path: Path,
) -> None:
    with collecting() as collector:
        pass  # nobody is there
    endpoint = {
        "OTEL_EXPORTER_OTLP_ENDPOINT": collector.url,
        "OTEL_EXPORTER_OTLP_HEADERS": "Authorization=Bearer hidden",
        "OTEL_BSP_SCHEDULE_DELAY": "10",  # milliseconds, so that it fails while we ask
    }
    with serving(variables=VARIABLES | endpoint, folder=tmp_path) as served:
        for _ in range(10):
            httpx2.get(f"{served.url}/openapi.json").raise_for_status()
        begin = time.monotonic()
        served.process.terminate()

        assert served.exit_code() == 0
        assert time.monotonic() - begin < TIME_TO_FLUSH + 3  # the SDK's own end would take 20 s

    log = served.log.read_text()
    assert "Telemetry of the last seconds is lost" in log
    assert "Traceback" not in log
    assert "hidden" not in log


def test_what_somebody_else_has_set_up_is_left_alone(tmp_path: Path) -> None:
    """As `opentelemetry-instrument` does, which reads the same variables and more of them."""
    script = """
from opentelemetry import trace
from opentelemetry.sdk.trace import TracerProvider
theirs = TracerProvider()
trace.set_tracer_provider(theirs)
from app.core.telemetry import lifecycle
from app.core.telemetry.exporters import name_of_service
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
