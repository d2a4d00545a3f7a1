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

from app import NAME, __version__
from app.core.config import variable
from tests.harness.backends import Backend
from tests.processes import serving

ROOT = Path(__file__).parents[3]
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
