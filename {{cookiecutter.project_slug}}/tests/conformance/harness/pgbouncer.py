"""Runs PgBouncer in transaction mode. See https://www.pgbouncer.org/config.html"""

import os
import re
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory

from sqlalchemy import URL, make_url

from tests.conformance.harness.address import address
from tests.harness.launch import launch
from tests.harness.postgresql import Server
from tests.harness.server import FailedError

PORT = 6432  # only a part of the Unix socket's name; no TCP port is opened
SECONDS_TO_START = 10.0

# A small pool; round robin gives consecutive transactions different server connections.
SETTINGS = {
    "auth_type": "any",
    "default_pool_size": 5,
    "listen_port": PORT,
    "pool_mode": "transaction",
    "query_wait_timeout": 5,
    "server_round_robin": 1,
    "server_tls_sslmode": "prefer",
}

# Kills PgBouncer and removes its folder if the test run is killed before it can do so.
GUARD = """
import os, shutil, sys
if not sys.stdin.readline():
    os.kill(int(sys.argv[1]), 9)
    shutil.rmtree(sys.argv[2])
"""


class PgBouncer:
    """A PgBouncer on a Unix socket without authentication. It connects to the server as the tests do."""

    def __init__(self, server: URL, folder: Path, **settings: object) -> None:
        self._folder = folder
        host, port = address(server)
        keys = {"host": host, "port": port, "user": server.username, "password": server.password}
        database = " ".join(f"{key}={_quoted(value)}" for key, value in keys.items() if value)
        settings = {**SETTINGS, **settings, "unix_socket_dir": folder}
        if [int(n) for n in re.findall(r"\d+", pgbouncer_name())] >= [1, 21]:
            settings["max_prepared_statements"] = 0  # the behavior of versions before 1.21
        if os.name == "posix" and os.geteuid() == 0:  # PgBouncer refuses to run as root
            settings["user"] = Path(host).owner() if host.startswith("/") else "nobody"
            shutil.chown(folder, str(settings["user"]))
        lines = ["[databases]", f"* = {database}", "[pgbouncer]"]
        lines += [f"{key} = {value}" for key, value in settings.items()]
        self._configuration = folder / "pgbouncer.ini"
        self._configuration.touch(mode=0o600)
        self._configuration.write_text("\n".join([*lines, ""]))
        self.start()

    def url(self, database: str) -> str:
        """Return the URL of the database with this name, through PgBouncer."""
        return f"postgresql://anybody@/{database}?host={self._folder}&port={PORT}"

    def crash(self) -> None:
        """Kill PgBouncer, which closes all its connections without a message."""
        self._process.kill()
        self._process.wait()
        self._guard.communicate("done\n")

    def start(self) -> None:
        """Start PgBouncer and return when it listens."""
        socket_ = self._folder / f".s.PGSQL.{PORT}"
        socket_.unlink(missing_ok=True)
        with (self._folder / "log").open("a") as log:
            self._process = subprocess.Popen(
                [find_pgbouncer(), "--quiet", self._configuration], stderr=log
            )
        self._guard = launch(sys.executable, "-c", GUARD, str(self._process.pid), str(self._folder))
        deadline = time.monotonic() + SECONDS_TO_START
        while not _listens(socket_):
            if self._process.poll() is not None or time.monotonic() > deadline:
                raise FailedError(f"PgBouncer does not start: {(self._folder / 'log').read_text()}")
            time.sleep(0.005)


def find_pgbouncer() -> str:
    """Return the path of the program, or an empty string. Debian installs it in /usr/sbin."""
    path = os.pathsep.join([os.environ.get("PATH", ""), "/usr/sbin"])
    return shutil.which("pgbouncer", path=path) or ""


def pgbouncer_name() -> str:
    """Return the name and version that PgBouncer prints, such as `PgBouncer 1.24.1`."""
    output = subprocess.run(
        [find_pgbouncer(), "--version"], capture_output=True, check=True, text=True
    ).stdout
    return output.partition("\n")[0]


@contextmanager
def pgbouncer_before(server: Server, **settings: object) -> Iterator[PgBouncer]:
    """Run PgBouncer in front of the server, with these settings in addition to SETTINGS."""
    with TemporaryDirectory(prefix="pgb-") as folder:
        pgbouncer = PgBouncer(make_url(server.url("postgres")), Path(folder), **settings)
        try:
            yield pgbouncer
        finally:
            pgbouncer.crash()


def _quoted(value: object) -> str:
    return "'" + str(value).replace("'", "''") + "'"


def _listens(path: Path) -> bool:
    with socket.socket(socket.AF_UNIX) as client:
        return client.connect_ex(str(path)) == 0
