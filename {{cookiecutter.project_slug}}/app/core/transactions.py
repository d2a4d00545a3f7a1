"""A transaction that the database has given up must not look committed.

PostgreSQL answers COMMIT with ROLLBACK, and nobody raises, where a statement has failed and its
error was swallowed. SQLite gives up the whole transaction on `OR ROLLBACK`, a full disk and the
like, and what follows runs outside any.
"""

from sqlalchemy import Connection, Engine, event
from sqlalchemy.engine import ExceptionContext
from sqlalchemy.exc import DBAPIError
from sqlalchemy.orm import Session, SessionTransaction

from app.core.errors import TransactionFailedError

STATEMENT_FAILED = "statement_failed"


class CheckedSession(Session):
    """A session that raises `TransactionFailedError` rather than commit nothing."""


def note_failures(engine: Engine) -> None:
    """Note on each connection of the engine whether a statement of its transaction has failed."""
    event.listen(engine, "begin", _forget_failure)
    event.listen(engine, "handle_error", _note_failure)


def _forget_failure(connection: Connection) -> None:
    connection.info.pop(STATEMENT_FAILED, None)


def _note_failure(context: ExceptionContext) -> None:
    if context.connection is not None and not context.is_disconnect:
        context.connection.info[STATEMENT_FAILED] = True


@event.listens_for(CheckedSession, "after_begin")
def _remember_connection(session: Session, _: SessionTransaction, connection: Connection) -> None:
    session.info["connection"] = connection


@event.listens_for(CheckedSession, "before_commit")
def _refuse_to_commit_nothing(session: Session) -> None:
    """Ask the database whether the transaction lives: only it knows, and only after a failure.

    This comes before SQLAlchemy's commit begins. Raised inside the engine's own commit event, an
    error would send the aborted connection back to the pool.
    """
    connection: Connection | None = session.info.get("connection")
    if connection is None or connection.closed or connection.invalidated:
        return
    if connection.info.get(STATEMENT_FAILED) and not _is_alive(connection):
        raise TransactionFailedError(
            "a statement failed, its error was swallowed, and the database has given up what the "
            "transaction wrote: let the error through, or use a savepoint (session.begin_nested())"
        )


def _is_alive(connection: Connection) -> bool:
    if connection.dialect.name == "sqlite":
        driver = connection.connection.driver_connection
        return bool(driver is not None and driver.in_transaction)
    try:
        connection.exec_driver_sql("SELECT 1")
    except DBAPIError:
        return False
    return True
