"""What SQLite needs, through aiosqlite, to keep the promises that PostgreSQL keeps by itself."""

from contextlib import suppress
from pathlib import Path
from typing import Any

from sqlalchemy import URL, Connection, Engine, event
from sqlalchemy.engine import Dialect, ExceptionContext
from sqlalchemy.pool import ConnectionPoolEntry

from app.core.config import DatabaseSettings

BUSY_TIMEOUT = 5.0  # seconds


def is_in_memory(url: URL) -> bool:
    return url.get_backend_name() == "sqlite" and url.database in {None, "", ":memory:"}


def connect_args(settings: DatabaseSettings, *, read_only: bool) -> dict[str, Any]:
    """Return what the driver is to be called with beside the URL.

    An isolation level of None: the driver begins no transaction of its own, `_begin` does.
    """
    return {"isolation_level": None, "timeout": BUSY_TIMEOUT}


def add_listeners(engine: Engine, *, read_only: bool) -> None:
    event.listen(engine, "do_connect", _make_folder)
    event.listen(engine, "connect", _enforce_foreign_keys)
    event.listen(engine, "handle_error", _roll_back_failed_commit)
    if not is_in_memory(engine.url):
        event.listen(engine, "connect", _write_ahead)
    if read_only:
        event.listen(engine, "connect", _refuse_writes)
    else:
        event.listen(engine, "begin", _begin)


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
    """Let readers not wait for a writer, nor a writer for readers."""
    _execute(connection, "PRAGMA journal_mode = WAL")


def _refuse_writes(connection: Any, _: ConnectionPoolEntry) -> None:
    _execute(connection, "PRAGMA query_only = ON")


def _execute(connection: Any, statement: str) -> None:
    cursor = connection.cursor()
    cursor.execute(statement)
    cursor.close()


def _begin(connection: Connection) -> None:
    """Begin in so many words: left to itself the driver begins late, and SAVEPOINT escapes it.

    https://docs.sqlalchemy.org/en/21/dialects/sqlite.html#sqlite-transactions
    """
    connection.exec_driver_sql("BEGIN")


def _roll_back_failed_commit(context: ExceptionContext) -> None:
    """End the transaction that SQLite keeps open where COMMIT fails; SQLAlchemy takes it for ended.

    https://www.sqlite.org/lang_transaction.html
    """
    if context.connection is None or context.is_disconnect or context.statement is not None:
        return
    context.connection.connection.rollback()
