"""What SQLite needs, through aiosqlite, to keep the promises that PostgreSQL keeps by itself."""

import asyncio
import sqlite3
from contextlib import suppress
from functools import cache
from pathlib import Path
from threading import Event
from time import monotonic
from typing import Any

from sqlalchemy import URL, Connection, Engine, event
from sqlalchemy.engine import Dialect, ExceptionContext
from sqlalchemy.ext.asyncio import AsyncEngine
from sqlalchemy.pool import ConnectionPoolEntry
from sqlalchemy.util import await_only

from app.core.database.errors import TransactionFailedError
from app.core.database.settings import DatabaseSettings

BUSY_TIMEOUT = 5.0  # seconds
SECONDS_BETWEEN_TRIES = 0.01
BEGIN = "BEGIN"
QUERY_ONLY = "PRAGMA query_only"
STEPS_BETWEEN_QUESTIONS = 100_000  # of SQLite's virtual machine

_abandoned: set[asyncio.Task[None]] = set()  # a loop keeps only weak references to its tasks


def is_in_memory(url: URL) -> bool:
    return url.get_backend_name() == "sqlite" and url.database in {None, "", ":memory:"}


def engine_options(_: URL, __: DatabaseSettings, *, read_only: bool) -> dict[str, Any]:
    """Return what `create_async_engine` is to be called with beside the URL and the pool.

    An isolation level of None for the driver: it begins no transaction of its own, `_begin` does.
    """
    options: dict[str, Any] = {"connect_args": {"isolation_level": None, "timeout": BUSY_TIMEOUT}}
    return options | ({"isolation_level": "AUTOCOMMIT"} if read_only else {})


def read_only_view(engine: AsyncEngine) -> AsyncEngine:
    """Return an engine that reads what this one has in memory, on the one connection that both have."""
    return engine.execution_options(read_only=True)


def add_listeners(engine: Engine, _: DatabaseSettings, *, read_only: bool) -> None:
    event.listen(engine, "do_connect", _make_folder)
    event.listen(engine, "connect", _enforce_foreign_keys)
    event.listen(engine, "connect", _stop_once)
    event.listen(engine, "connect", _watch_for_abandonment)
    event.listen(engine, "invalidate", _abandon)
    if is_in_memory(engine.url):
        event.listen(engine, "handle_error", _keep)
        event.listen(engine, "begin", _refuse_writes_to_a_view)
    else:
        event.listen(engine, "connect", _write_ahead)
    if read_only:
        event.listen(engine, "connect", _refuse_writes)
    else:
        event.listen(engine, "begin", _begin)
        event.listen(engine, "before_cursor_execute", _refuse_after_the_end)
        event.listen(engine, "commit", _refuse_to_commit_nothing)
        event.listen(engine, "handle_error", _roll_back_failed_commit)


def _make_folder(
    _: Dialect, record: ConnectionPoolEntry, args: list[Any], parameters: dict[str, Any]
) -> None:
    """Make the folder of a file; SQLite makes the file, or says why it cannot."""
    name = str(args[0])
    if not name.startswith((":", "file:")):
        with suppress(OSError):
            Path(name).parent.mkdir(parents=True, exist_ok=True)


def _enforce_foreign_keys(connection: Any, _: ConnectionPoolEntry) -> None:
    _execute(connection, "PRAGMA foreign_keys = ON")


def ignore_foreign_keys(connection: Any, _: ConnectionPoolEntry) -> None:
    """Let a table be changed by copying it: to drop the old one must not touch what refers to it.

    https://www.sqlite.org/lang_altertable.html#otheralter
    """
    _execute(connection, "PRAGMA foreign_keys = OFF")


def _write_ahead(connection: Any, _: ConnectionPoolEntry) -> None:
    """Let readers not wait for a writer, nor a writer for readers.

    Of processes that do this to a new file at once, SQLite refuses some without the busy timeout.
    """
    deadline = monotonic() + BUSY_TIMEOUT
    while True:
        try:
            return _execute(connection, "PRAGMA journal_mode = WAL")
        except sqlite3.OperationalError as error:
            if error.sqlite_errorcode != sqlite3.SQLITE_BUSY or monotonic() > deadline:
                raise
        await_only(asyncio.sleep(SECONDS_BETWEEN_TRIES))


def _refuse_writes(connection: Any, _: ConnectionPoolEntry) -> None:
    _execute(connection, f"{QUERY_ONLY} = ON")


def _refuse_writes_to_a_view(connection: Connection) -> None:
    """Refuse, or accept again: a view and its engine have one connection."""
    refuses = "read_only" in connection.get_execution_options()
    connection.exec_driver_sql(f"{QUERY_ONLY} = {'ON' if refuses else 'OFF'}")


def _execute(connection: Any, statement: str) -> None:
    cursor = connection.cursor()
    cursor.execute(statement)
    cursor.close()


def _begin(connection: Connection) -> None:
    """Begin in so many words: left to itself the driver begins late, and SAVEPOINT escapes it.

    https://docs.sqlalchemy.org/en/21/dialects/sqlite.html#sqlite-transactions
    """
    if not _is_autocommit(connection):
        connection.exec_driver_sql(BEGIN)


def _refuse_after_the_end(connection: Connection, _: Any, statement: str, *others: object) -> None:
    """Refuse a statement that would be stored at once and by itself.

    SQLite gives up the whole transaction on `OR ROLLBACK`, a full disk and the like; what follows
    runs outside of any. https://www.sqlite.org/lang_transaction.html
    """
    if statement != BEGIN and not statement.startswith(QUERY_ONLY):
        _refuse_to_commit_nothing(connection)


def _refuse_to_commit_nothing(connection: Connection) -> None:
    driver = connection.connection.driver_connection
    if driver is not None and not driver.in_transaction and not _is_autocommit(connection):
        raise TransactionFailedError


def _is_autocommit(connection: Connection) -> bool:
    """Say whether somebody asked for no transaction, as VACUUM needs it."""
    options = connection.get_execution_options()
    return options.get("isolation_level") == "AUTOCOMMIT" or "read_only" in options


def _roll_back_failed_commit(context: ExceptionContext) -> None:
    """End the transaction that SQLite keeps open where COMMIT fails; SQLAlchemy takes it for ended.

    https://www.sqlite.org/lang_transaction.html
    """
    if context.connection is None or context.is_disconnect or context.statement is not None:
        return
    context.connection.connection.rollback()


def _keep(context: ExceptionContext) -> None:
    """Keep a connection that is a whole database, although what it did was cancelled."""
    context.is_disconnect = False


def _stop_once(connection: Any, _: ConnectionPoolEntry) -> None:
    """Let a close end that was cancelled, and so has stopped aiosqlite's thread twice.

    It would wait for the second answer of a thread that has ended with the first one.
    """
    driver = connection.driver_connection
    driver.stop = cache(driver.stop)


def _watch_for_abandonment(connection: Any, record: ConnectionPoolEntry) -> None:
    """Let a statement be interrupted, by a question that SQLite asks after some milliseconds.

    Not by sqlite3_interrupt(): where a cursor has rows left to be read, that interrupts everything
    which comes after it too, and so the ROLLBACK. https://www.sqlite.org/c3ref/interrupt.html
    """
    abandoned = record.info["abandoned"] = Event()
    connection.run_async(
        lambda driver: driver.set_progress_handler(abandoned.is_set, STEPS_BETWEEN_QUESTIONS)
    )


def _abandon(connection: Any, record: ConnectionPoolEntry, error: BaseException | None) -> None:
    """End what a connection is doing before it is closed, as after a cancelled statement.

    A cursor that somebody still holds, a traceback among them, keeps a closed connection alive in
    SQLite, with its transaction and its lock. https://www.sqlite.org/c3ref/close.html
    """

    async def roll_back() -> None:
        with suppress(Exception):
            await connection.driver_connection.rollback()

    record.info["abandoned"].set()
    with suppress(RuntimeError):  # no loop runs: it is the garbage collector that closes
        task = asyncio.get_running_loop().create_task(roll_back())
        _abandoned.add(task)
        task.add_done_callback(_abandoned.discard)
