"""The description and settings of a test server, shared by external.py, container.py and wheel.py."""

import json
from typing import Any, NamedTuple

from sqlalchemy import URL

# Fast settings: the data need not survive a crash.
SETTINGS = {
    "autovacuum": "off",
    "deadlock_timeout": "100ms",
    "fsync": "off",
    "full_page_writes": "off",
    "jit": "off",
    "max_connections": "500",
    "max_prepared_transactions": "10",  # for two-phase commit
    "max_wal_senders": "0",
    "max_wal_size": "128MB",
    "synchronous_commit": "off",
    "wal_level": "minimal",
}


class UnavailableError(Exception):
    """This source has no server. The message says what to install or to set."""


class FailedError(UnavailableError):
    """The source that the developer requested has no server. No other source is tried."""


class RunningServer(NamedTuple):
    url: URL  # of the database to connect to; nothing is stored in it
    prefix: str  # of the names of all databases and roles that the run creates
    name: str  # shown before the first test
    is_external: bool = False  # not started by this run: remove everything that the run created


def send(**message: Any) -> None:
    """Send a message to the test run: a line of JSON on standard output."""
    print(json.dumps(message), flush=True)  # noqa: T201


def first_line(error: BaseException) -> str:
    return str(error).strip().partition("\n")[0] or type(error).__name__
