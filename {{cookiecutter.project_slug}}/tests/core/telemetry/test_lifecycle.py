"""What switches telemetry on, what does not, and what the end of the service waits for."""

import os
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
