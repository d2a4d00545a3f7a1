"""Errors of the database layer. `core/db.py` exports them."""


class ConfigurationError(ValueError):
    """A setting is missing or wrong; the message names the variable to set."""


class DatabaseNotFoundError(LookupError):
    """No database has this name; the message lists those that exist."""


class TransactionFailedError(Exception):
    """The database has given up the transaction, and what it wrote, before it was committed.

    A statement failed and its error was swallowed. Let the error through, or put the statement that
    may fail into `async with session.begin_nested()`.
    """

    def __init__(self) -> None:
        super().__init__(
            "a statement failed, its error was swallowed, and the database has given up what the "
            "transaction wrote: let the error through, or use session.begin_nested()"
        )
