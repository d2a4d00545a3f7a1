"""COMMIT of a session that has only executed prepared statements: sent without a greenlet."""

from sqlalchemy import Connection

from app.core.database.pool import FairPool
from app.core.database.postgresql._connection import adapter_of


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
    adapter = adapter_of(connection)
    transaction = getattr(adapter, "_transaction", None)
    if transaction is None or not returns_at_once(connection):
        return False
    try:
        await transaction.commit()
    except BaseException as error:
        if adapter_of(connection) is None:  # another task has closed it
            raise
        adapter._transaction = _FailedTransaction(error)
        return False
    adapter._transaction = None
    return returns_at_once(connection)  # it may have changed during COMMIT


def returns_at_once(connection: Connection) -> bool:
    """Return whether the pool keeps the connection, and no listener but the service's sees its return."""
    pool = connection.engine.pool
    return isinstance(pool, FairPool) and not pool.has_other_listeners and pool.overflow() <= 0
