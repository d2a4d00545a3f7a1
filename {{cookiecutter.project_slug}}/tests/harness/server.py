"""What a PostgreSQL to test on is, whichever way it comes: external.py, container.py, wheel.py."""

import json
from collections.abc import Callable
from typing import Any, NamedTuple

from sqlalchemy import URL

# What a server need not do if nobody will miss its data.
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
    """There is no server this way; the message says what to install or to set."""


class FailedError(UnavailableError):
    """There should be one, as somebody has asked for it: no other way is tried."""


class Server(NamedTuple):
    url: URL  # of a database to connect to, in which nothing is stored
    prefix: str  # of the names of all that the run makes on it
    name: str  # for people
    is_borrowed: bool = False  # somebody else's, on which nothing may be left
    crash: Callable[[], None] | None = None  # and start again; None where that cannot be had


def say(**what: Any) -> None:
    """Tell the run, in a line of JSON."""
    print(json.dumps(what), flush=True)  # noqa: T201


def first_line(error: BaseException) -> str:
    return str(error).strip().partition("\n")[0] or type(error).__name__
