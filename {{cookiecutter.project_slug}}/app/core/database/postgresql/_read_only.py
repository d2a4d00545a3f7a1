"""Transactions of read-only sessions: none, except around streams and savepoints."""

from typing import Any

from sqlalchemy import Connection
from sqlalchemy.engine import Dialect, ExecutionContext
from sqlalchemy.pool import ConnectionPoolEntry

from app.core.database.postgresql._commit import returns_at_once
from app.core.database.postgresql._connection import adapter_of

SNAPSHOT = "snapshot"  # the key in a pool entry's `info` of a connection that left AUTOCOMMIT


def needs_no_rollback(connection: Connection) -> bool:
    """Return whether a session can end without a round trip: in AUTOCOMMIT, no transaction is open."""
    dialect = connection.dialect
    adapter = adapter_of(connection) if dialect.driver == "asyncpg" else None
    if adapter is None or not returns_at_once(connection):
        return False
    return bool(dialect.detect_autocommit_setting(adapter))


def begin_snapshot(_: Any, statement: str, __: Any, context: ExecutionContext) -> None:
    """Let a read-only session run in a transaction, with one snapshot, from this statement on.

    A server-side cursor and a savepoint exist only in a transaction, and AUTOCOMMIT begins none.
    """
    if context.execution_options.get("stream_results") or statement.startswith("SAVEPOINT"):
        connection = context.root_connection.connection
        adapter: Any = connection.dbapi_connection
        if context.dialect.detect_autocommit_setting(adapter):
            context.dialect.set_isolation_level(adapter, "REPEATABLE READ")
            connection.info[SNAPSHOT] = True


def end_snapshot(dialect: Dialect, adapter: Any, record: ConnectionPoolEntry) -> None:
    """At checkin, return a connection that `begin_snapshot` changed to AUTOCOMMIT."""
    if record.info.pop(SNAPSHOT, None) and adapter is not None:
        dialect.reset_isolation_level(adapter)
