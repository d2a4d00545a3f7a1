"""`make audit` checks the installed packages, here against a database with one vulnerability."""

import json
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from threading import Thread
from typing import Any

import pytest

from tests.conftest import make

pytestmark = pytest.mark.full


class Database(HTTPServer):
    """The part of the OSV API that pip-audit uses: https://google.github.io/osv.dev/"""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.requested: set[str] = set()
        self.vulnerable: set[str] = set()


class Handler(BaseHTTPRequestHandler):
    server: Database

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["content-length"]))
        package: dict[str, Any] = json.loads(body)["package"]
        self.server.requested.add(package["name"])
        known = [{"id": "OSV-2026-1", "affected": [{"package": package}]}]
        found = {"vulns": known} if package["name"] in self.server.vulnerable else {}
        self.send_response(200)
        self.end_headers()
        self.wfile.write(json.dumps(found).encode())

    def log_message(self, *_: Any) -> None:
        """Log nothing."""


@pytest.fixture
def database() -> Iterator[Database]:
    with Database() as database:
        thread = Thread(target=database.serve_forever)
        thread.start()
        yield database
        database.shutdown()
        thread.join()


def test_audit_finds_a_vulnerable_package(project: Path, database: Database) -> None:
    url = f"http://127.0.0.1:{database.server_port}"
    arguments = f"ARGS=--vulnerability-service osv --osv-url {url}"

    make(project, "audit", arguments)

    assert {"fastapi", "pytest", "starlette"} <= database.requested  # transitive dependencies too
    assert "app" not in database.requested

    database.vulnerable = {"starlette"}
    refused = make(project, "audit", arguments, check=False)

    assert refused.returncode != 0
    assert "OSV-2026-1" in refused.stdout
