"""SQLite through aiosqlite: engine options and event listeners."""

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

from app.core.database.errors import TransactionFailedError
from app.core.database.settings import DatabaseSettings
from app.core.database.tasks import start, wait_until_done

BUSY_TIMEOUT = 5.0  # seconds
SECONDS_BETWEEN_RETRIES = 0.01
BEGIN = "BEGIN"
QUERY_ONLY = "PRAGMA query_only"
STEPS_BETWEEN_CHECKS = 100_000  # instructions of SQLite's virtual machine: some milliseconds


def is_in_memory(url: URL) -> bool:
    return url.get_backend_name() == "sqlite" and url.database in {None, "", ":memory:"}


def engine_options(_: URL, __: DatabaseSettings, *, read_only: bool) -> dict[str, Any]:
    """Return the arguments of `create_async_engine`, except the URL and those of the pool.

    With `isolation_level=None` the driver never begins a transaction: `_begin` does.
    """
    options: dict[str, Any] = {"connect_args": {"isolation_level": None, "timeout": BUSY_TIMEOUT}}
    return options | ({"isolation_level": "AUTOCOMMIT"} if read_only else {})


def read_only_view(engine: AsyncEngine) -> AsyncEngine:
    """Return a read-only engine on the connection of this one, which holds a database in memory."""
    return engine.execution_options(read_only=True)


def add_listeners(engine: Engine, _: DatabaseSettings, *, read_only: bool) -> None:
    event.listen(engine, "do_connect", _make_folder)
    event.listen(engine, "connect", _enforce_foreign_keys)
    event.listen(engine, "connect", _stop_thread_once)
    event.listen(engine, "connect", _make_interruptible)
    event.listen(engine, "invalidate", _interrupt_and_roll_back)
    if is_in_memory(engine.url):
        event.listen(engine, "connect", _finish_rollbacks)
        event.listen(engine, "handle_error", _keep_connection)
        event.listen(engine, "begin", _set_query_only)
    else:
        event.listen(engine, "connect", _enable_write_ahead_log)
    if read_only:
        event.listen(engine, "connect", _refuse_writes)
    else:
        event.listen(engine, "begin", _begin)
        event.listen(engine, "before_cursor_execute", _check_transaction)
        event.listen(engine, "commit", _refuse_lost_transaction)
        event.listen(engine, "handle_error", _roll_back_failed_commit)


def _make_folder(
    _: Dialect, record: ConnectionPoolEntry, args: list[Any], parameters: dict[str, Any]
) -> None:
    """Create the folder of the database file. SQLite creates the file, or raises an error."""
    name = str(args[0])
    if not name.startswith((":", "file:")):
        with suppress(OSError):
            Path(name).parent.mkdir(parents=True, exist_ok=True)


def _enforce_foreign_keys(connection: Any, _: ConnectionPoolEntry) -> None:
    _execute(connection, "PRAGMA foreign_keys = ON")


def ignore_foreign_keys(connection: Any, _: ConnectionPoolEntry) -> None:
    """Turn off foreign keys, so that a migration can replace a table that others refer to.

    https://www.sqlite.org/lang_altertable.html#otheralter
    """
    _execute(connection, "PRAGMA foreign_keys = OFF")


def _enable_write_ahead_log(connection: Any, _: ConnectionPoolEntry) -> None:
    """Let readers and a writer work at the same time.

    When several processes do this to a new file at once, some get SQLITE_BUSY without any wait.
    """
    deadline = monotonic() + BUSY_TIMEOUT
    while True:
        try:
            return _execute(connection, "PRAGMA journal_mode = WAL")
        except sqlite3.OperationalError as error:
            if error.sqlite_errorcode != sqlite3.SQLITE_BUSY or monotonic() > deadline:
                raise
        connection.run_async(lambda _: asyncio.sleep(SECONDS_BETWEEN_RETRIES))


def _refuse_writes(connection: Any, _: ConnectionPoolEntry) -> None:
    _execute(connection, f"{QUERY_ONLY} = ON")


def _set_query_only(connection: Connection) -> None:
    """Refuse or accept writes, as sessions of both kinds share the connection."""
    read_only = "read_only" in connection.get_execution_options()
    connection.exec_driver_sql(f"{QUERY_ONLY} = {'ON' if read_only else 'OFF'}")


def _execute(connection: Any, statement: str) -> None:
    cursor = connection.cursor()
    cursor.execute(statement)
    cursor.close()


def _begin(connection: Connection) -> None:
    """Send BEGIN. The driver would send it late, and break SAVEPOINT.

    https://docs.sqlalchemy.org/en/21/dialects/sqlite.html#sqlite-transactions
    """
    if _is_autocommit(connection):
        return
    try:
        connection.exec_driver_sql(BEGIN)
    except BaseException:
        if not connection.invalidated:  # in memory: a cancelled BEGIN may still have run
            connection.connection.rollback()
        raise


def _check_transaction(connection: Connection, _: Any, statement: str, *others: object) -> None:
    """Raise for a statement after SQLite has rolled back the transaction by itself.

    SQLite does so on `OR ROLLBACK`, on a full disk and on some other errors. It would commit the
    next statement on its own. https://www.sqlite.org/lang_transaction.html
    """
    if statement != BEGIN and not statement.startswith(QUERY_ONLY):
        _refuse_lost_transaction(connection)


def _refuse_lost_transaction(connection: Connection) -> None:
    driver = connection.connection.driver_connection
    if driver is not None and not driver.in_transaction and not _is_autocommit(connection):
        raise TransactionFailedError


def _is_autocommit(connection: Connection) -> bool:
    """Return whether statements run outside a transaction, as VACUUM and reads do."""
    options = connection.get_execution_options()
    return options.get("isolation_level") == "AUTOCOMMIT" or "read_only" in options


def _roll_back_failed_commit(context: ExceptionContext) -> None:
    """Roll back after a failed COMMIT: SQLite keeps the transaction open, SQLAlchemy does not know.

    https://www.sqlite.org/lang_transaction.html
    """
    if context.connection is None or context.is_disconnect or context.statement is not None:
        return
    context.connection.connection.rollback()


def _keep_connection(context: ExceptionContext) -> None:
    """Keep the connection after a cancelled statement: to close it deletes a database in memory."""
    context.is_disconnect = False


def _finish_rollbacks(connection: Any, _: ConnectionPoolEntry) -> None:
    """Let a rollback finish although its task is cancelled, and cancel the task again after it.

    SQLAlchemy closes a connection whose rollback was cancelled, and with it a database in memory.
    """
    driver = connection.driver_connection
    roll_back = driver.rollback

    async def finish() -> None:
        rollback = start(roll_back)
        task = asyncio.current_task()
        if task and await wait_until_done(rollback):
            task.uncancel()
            task.cancel()
        else:
            await rollback

    driver.rollback = finish


def _stop_thread_once(connection: Any, _: ConnectionPoolEntry) -> None:
    """Let `stop()` of aiosqlite return the same future each time.

    When a close is cancelled, SQLAlchemy and aiosqlite both call `stop()`. The thread ends with the
    first call and would never set the future of the second one. See docs/private-apis.md.
    """
    driver = connection.driver_connection
    driver.stop = cache(driver.stop)


def _make_interruptible(connection: Any, record: ConnectionPoolEntry) -> None:
    """Let SQLite check, while a statement runs, whether the connection was invalidated.

    `sqlite3_interrupt()` would also interrupt the ROLLBACK that follows, as long as a cursor has
    unread rows. https://www.sqlite.org/c3ref/interrupt.html
    """
    interrupted = record.info["interrupted"] = Event()
    connection.run_async(
        lambda driver: driver.set_progress_handler(interrupted.is_set, STEPS_BETWEEN_CHECKS)
    )


def _interrupt_and_roll_back(connection: Any, record: ConnectionPoolEntry, *_: object) -> None:
    """Stop the running statement, which may have been cancelled, and roll back before the close.

    A cursor that a traceback refers to keeps a closed connection alive in SQLite, with its
    transaction and its lock. https://www.sqlite.org/c3ref/close.html
    """

    async def roll_back() -> None:
        with suppress(Exception):
            await connection.driver_connection.rollback()

    record.info["interrupted"].set()
    with suppress(RuntimeError):  # no event loop runs when the garbage collector closes it
        start(roll_back)
