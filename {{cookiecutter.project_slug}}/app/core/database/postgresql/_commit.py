"""COMMIT of a session that has only executed prepared statements: sent without a greenlet."""

from typing import Any

from sqlalchemy import Connection

from app.core.database.pool import FairPool


class _FailedTransaction:
    """Has the `commit()` of a transaction. It raises the error of the COMMIT that was sent."""

    def __init__(self, error: BaseException) -> None:
        self._error = error

    async def commit(self) -> None:
        raise self._error


async def send_commit(connection: Connection) -> bool:
    """Send COMMIT. Return whether SQLAlchemy can now commit and return the connection without waiting.

    If COMMIT fails, SQLAlchemy's commit raises the error, with all that it does for other errors.
    """
    if connection.closed or connection.invalidated or not returns_at_once(connection):
        return False
    adapter: Any = connection.connection.dbapi_connection
    if (transaction := getattr(adapter, "_transaction", None)) is None:
        return False
    try:
        await transaction.commit()
    except BaseException as error:
        if connection.closed or connection.invalidated:  # by another task
            raise
        adapter._transaction = _FailedTransaction(error)
        return False
    adapter._transaction = None
    return returns_at_once(connection)  # it may have changed during COMMIT


def returns_at_once(connection: Connection) -> bool:
    """Return whether the pool keeps the connection, and no listener but the service's sees its return."""
    pool = connection.engine.pool
    return isinstance(pool, FairPool) and not pool.has_other_listeners and pool.overflow() <= 0
