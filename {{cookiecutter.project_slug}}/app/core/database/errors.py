"""Errors of the database layer. `core/db.py` exports them."""


class ConfigurationError(ValueError):
    """A setting is missing or wrong. The message names the variable to set."""


class DatabaseNotFoundError(LookupError):
    """No database has this name. The message lists the existing ones."""


class TransactionFailedError(Exception):
    """The database has rolled back the transaction before it was committed: none of its writes is stored.

    A statement failed and the application caught its error. Let the error propagate, or run the
    statement in `async with session.begin_nested()`.
    """

    def __init__(self) -> None:
        super().__init__(
            "a statement failed, its error was caught, and the database has rolled back the "
            "transaction: let the error propagate, or use session.begin_nested()"
        )


class CommitOutcomeUnknownError(ConnectionError):
    """The connection was lost, or closed after COMMIT_TIMEOUT, before PostgreSQL responded to COMMIT.

    The transaction may be stored, now or later, or not. The cause of an `OperationalError`.
    """

    def __init__(self) -> None:
        super().__init__("no response to COMMIT: the transaction may be stored or not")


class IdleTransactionError(Exception):
    """PostgreSQL has closed the connection of a transaction that was idle for too long."""

    sqlstate = "25P03"
