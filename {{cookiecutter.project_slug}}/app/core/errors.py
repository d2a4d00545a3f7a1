"""What can go wrong, and the status each answers with."""

from dataclasses import dataclass, field
from typing import Any

from sqlalchemy import exc
from sqlalchemy.orm.exc import StaleDataError

RETRY_AFTER = {"Retry-After": "1"}


@dataclass(frozen=True)
class Problem:
    """What an answer says about an error: never SQL, a parameter, a URL or a traceback."""

    status: int
    title: str
    detail: str | None = None
    headers: dict[str, str] = field(default_factory=dict)
    members: dict[str, Any] = field(default_factory=dict)  # beside those of RFC 9457


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


class ServiceError(Exception):
    """An error that a client can understand; its message is shown to them."""

    status = 500
    title = "Internal server error"

    def problem(self) -> Problem:
        return Problem(self.status, self.title, str(self))


class NotFoundError(ServiceError):
    status = 404
    title = "Not found"


class ConflictError(ServiceError):
    status = 409
    title = "Conflict"


class InvalidCursorError(ServiceError):
    status = 422
    title = "Invalid cursor"


class NotReadyError(ServiceError):
    """The service should get no work now; `databases` has the state of each that was asked."""

    status = 503
    title = "Service unavailable"

    def __init__(self, detail: str, **members: Any) -> None:
        super().__init__(detail)
        self.members = members

    def problem(self) -> Problem:
        return Problem(self.status, self.title, str(self), RETRY_AFTER, self.members)


INTERNAL = Problem(500, "Internal server error")
TOO_LARGE = Problem(413, "Content Too Large")
READ_ONLY = Problem(500, INTERNAL.title)
DUPLICATE = Problem(409, "Conflict", "Another record already has this value.")
STALE = Problem(409, "Conflict", "Another request has changed the record: read it again.")
REFERENCED = Problem(
    409, "Conflict", "A record that it refers to is missing, or another one refers to it."
)
REJECTED = Problem(422, "Unprocessable content", "The database does not accept this value.")
RETRY = Problem(
    503, "Try again", "Another request was in the way; nothing was stored.", RETRY_AFTER
)
UNAVAILABLE = Problem(503, "Service unavailable", "The database cannot be reached.", RETRY_AFTER)
OVERLOADED = Problem(503, "Service unavailable", "The database is busy.", RETRY_AFTER)

# By SQLSTATE, or by its first two characters, which are its class.
# https://www.postgresql.org/docs/current/errcodes-appendix.html
# By SQLite's result code, or by the primary one of an extended code. https://www.sqlite.org/rescode.html
DATABASE_PROBLEMS = {
    "08": UNAVAILABLE,  # connection exception
    "22": REJECTED,  # data exception: out of range, not representable
    "23001": REFERENCED,  # restrict violation, which was a foreign key violation before PostgreSQL 18
    "23502": REJECTED,  # not-null violation
    "23503": REFERENCED,  # foreign key violation
    "23505": DUPLICATE,  # unique violation
    "23514": REJECTED,  # check violation
    "23P01": DUPLICATE,  # exclusion violation
    "25006": READ_ONLY,  # read-only SQL transaction
    "40001": RETRY,  # serialization failure
    "40P01": RETRY,  # deadlock
    "53": OVERLOADED,  # insufficient resources, among them too many connections
    "55P03": RETRY,  # lock timeout
    "57014": OVERLOADED,  # statement timeout
    "57P": UNAVAILABLE,  # shut down, crashed, starting up
    "SQLITE_BUSY": RETRY,
    "SQLITE_CANTOPEN": UNAVAILABLE,
    "SQLITE_CONSTRAINT_CHECK": REJECTED,
    "SQLITE_CONSTRAINT_FOREIGNKEY": REFERENCED,
    "SQLITE_CONSTRAINT_NOTNULL": REJECTED,
    "SQLITE_CONSTRAINT_PRIMARYKEY": DUPLICATE,
    "SQLITE_CONSTRAINT_UNIQUE": DUPLICATE,
    "SQLITE_FULL": OVERLOADED,
    "SQLITE_IOERR": OVERLOADED,
    "SQLITE_LOCKED": RETRY,
    "SQLITE_READONLY": READ_ONLY,
}


def problem_of(error: Exception) -> Problem:
    """Return what to answer for an error, which is `INTERNAL` for one that nobody foresaw."""
    match error:
        case ServiceError():
            return error.problem()
        case exc.TimeoutError():  # no connection of the pool was free in time
            return OVERLOADED
        case exc.DBAPIError():
            return _database_problem(error)
        case StaleDataError():  # a version that is counted was not the newest
            return STALE
    return INTERNAL


def _database_problem(error: exc.DBAPIError) -> Problem:
    if error.connection_invalidated:
        return UNAVAILABLE
    if type(error.orig).__name__ == "InvalidCachedStatementError":  # a migration has changed a type
        return RETRY
    codes: tuple[str, ...]
    if sqlite := getattr(error.orig, "sqlite_errorname", None):
        codes = (sqlite, "_".join(sqlite.split("_")[:2]))
    elif sqlstate := getattr(error.orig, "sqlstate", None):
        codes = (sqlstate, sqlstate[:3], sqlstate[:2])
    else:  # neither database has said anything: there is no connection
        return UNAVAILABLE if isinstance(error, exc.OperationalError) else INTERNAL
    return next((DATABASE_PROBLEMS[code] for code in codes if code in DATABASE_PROBLEMS), INTERNAL)
