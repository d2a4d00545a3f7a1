"""`make audit` asks about what is installed, here somebody who knows of one vulnerability."""

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
    """As much of a database of vulnerabilities as pip-audit asks for: https://google.github.io/osv.dev/"""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Answer)
        self.asked: set[str] = set()
        self.vulnerable: set[str] = set()


class Answer(BaseHTTPRequestHandler):
    server: Database

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["content-length"]))
        package: dict[str, Any] = json.loads(body)["package"]
        self.server.asked.add(package["name"])
        known = [{"id": "OSV-2026-1", "affected": [{"package": package}]}]
        found = {"vulns": known} if package["name"] in self.server.vulnerable else {}
        self.send_response(200)
        self.end_headers()
        self.wfile.write(json.dumps(found).encode())

    def log_message(self, *_: Any) -> None:
        """Say nothing."""


@pytest.fixture
def database() -> Iterator[Database]:
    with Database() as database:
        thread = Thread(target=database.serve_forever)
        thread.start()
        yield database
        database.shutdown()
        thread.join()


def test_vulnerability_of_what_is_installed_is_found(project: Path, database: Database) -> None:
    url = f"http://127.0.0.1:{database.server_port}"
    arguments = f"ARGS=--vulnerability-service osv --osv-url {url}"

    make(project, "audit", arguments)

    assert {"fastapi", "pytest", "starlette"} <= database.asked  # also what another one needs
    assert "app" not in database.asked

    database.vulnerable = {"starlette"}
    refused = make(project, "audit", arguments, check=False)

    assert refused.returncode != 0
    assert "OSV-2026-1" in refused.stdout
