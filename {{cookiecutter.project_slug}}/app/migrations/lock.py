"""A lock that lets one process at a time migrate a database."""

import sqlite3
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager

from alembic.util import CommandError
from sqlalchemy import Connection, func, select

from app.core.database import sqlite

KEY = 0x6D69677261746521  # "migrate!"; PostgreSQL scopes advisory locks to a database
SECONDS_BETWEEN_TRIES = 0.1


@contextmanager
def lock(connection: Connection, database: str, seconds: float) -> Iterator[None]:
    """Hold the lock until the block ends; wait for it for `seconds` at most.

    The lock ends with the connection, so a process that crashes releases it.

    Raises:
        CommandError: another process still holds the lock after `seconds`.
    """
    url = connection.engine.url
    if connection.dialect.name == "postgresql":
        _wait_on_postgresql(connection, database, seconds)
        yield
    elif connection.dialect.name == "sqlite" and not sqlite.is_in_memory(url):
        with closing(sqlite3.connect(f"{url.database}-migration", isolation_level=None)) as file:
            _wait_on_sqlite(file, database, seconds)
            yield
    else:
        yield


def _wait_on_postgresql(connection: Connection, database: str, seconds: float) -> None:
    """Poll instead of waiting in a statement.

    A waiting statement has a snapshot. CREATE INDEX CONCURRENTLY in the process that holds the lock
    would wait for that snapshot: a deadlock.
    """
    deadline = time.monotonic() + seconds
    while not connection.scalar(select(func.pg_try_advisory_lock(KEY))):
        connection.rollback()
        if time.monotonic() > deadline:
            raise _too_late(database, seconds)
        time.sleep(SECONDS_BETWEEN_TRIES)
    connection.rollback()


def _wait_on_sqlite(file: sqlite3.Connection, database: str, seconds: float) -> None:
    """Lock a second file next to the database file, which the revisions need to lock themselves."""
    try:
        file.execute(f"PRAGMA busy_timeout = {round(seconds * 1000)}")
        file.execute("BEGIN EXCLUSIVE")
    except sqlite3.OperationalError as error:
        if error.sqlite_errorcode != sqlite3.SQLITE_BUSY:
            raise CommandError(f"the database {database!r} cannot be locked: {error}") from error
        raise _too_late(database, seconds) from error


def _too_late(database: str, seconds: float) -> CommandError:
    return CommandError(
        f"another process has been changing the database {database!r} for {seconds:g} seconds: "
        "try again when it has ended"
    )
