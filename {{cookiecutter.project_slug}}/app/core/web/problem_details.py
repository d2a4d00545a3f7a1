"""Problem details (RFC 9457): which status, title and detail each error gets in its response."""

from dataclasses import dataclass, field
from typing import Any

from sqlalchemy import exc
from sqlalchemy.orm.exc import StaleDataError

from app.core.database.errors import CommitOutcomeUnknownError, IdleTransactionError

RETRY_AFTER = {"Retry-After": "1"}  # seconds


@dataclass(frozen=True)
class Problem:
    """The content of an error response. It never has SQL, a parameter, a URL or a traceback."""

    status: int
    title: str
    detail: str | None = None
    headers: dict[str, str] = field(default_factory=dict)
    members: dict[str, Any] = field(default_factory=dict)  # RFC 9457 calls them extension members


class ServiceError(Exception):
    """Base class of the domain errors. The client sees the message as `detail`."""

    status = 500
    title = "Internal server error"

    def problem(self) -> Problem:
        return Problem(self.status, self.title, str(self))


INTERNAL = Problem(500, "Internal server error")
TOO_LARGE = Problem(413, "Content Too Large")
READ_ONLY = Problem(500, INTERNAL.title)
DUPLICATE = Problem(409, "Conflict", "Another record already has this value.")
STALE = Problem(409, "Conflict", "Another request has changed the record: read it again.")
REFERENCED = Problem(
    409, "Conflict", "A record that it refers to is missing, or another one refers to it."
)
REJECTED = Problem(422, "Unprocessable content", "The database does not accept this value.")
# The request may have committed before, itself or in another database: do not promise that nothing is stored.
RETRY = Problem(
    503,
    "Try again",
    "Another transaction was in the way. Earlier commits of this request stay stored.",
    RETRY_AFTER,
)
UNKNOWN = Problem(
    503,
    "Service unavailable",
    "The outcome is unknown: the data of this request may be stored or not.",
    RETRY_AFTER,
)
UNAVAILABLE = Problem(503, "Service unavailable", "The database cannot be reached.", RETRY_AFTER)
IDLE = Problem(503, "Service unavailable", "The transaction was idle for too long.", RETRY_AFTER)
OVERLOADED = Problem(503, "Service unavailable", "The database is busy.", RETRY_AFTER)

# PostgreSQL: by SQLSTATE, by its first three characters, or by its class (the first two).
# https://www.postgresql.org/docs/current/errcodes-appendix.html
# SQLite: by extended or primary result code. https://www.sqlite.org/rescode.html
DATABASE_PROBLEMS = {
    "08": UNAVAILABLE,  # connection exception
    "22": REJECTED,  # data exception: out of range, not representable
    "23001": REFERENCED,  # restrict violation; before PostgreSQL 18 a foreign key violation
    "23502": REJECTED,  # not-null violation
    "23503": REFERENCED,  # foreign key violation
    "23505": DUPLICATE,  # unique violation
    "23514": REJECTED,  # check violation
    "23P01": DUPLICATE,  # exclusion violation
    "25006": READ_ONLY,  # read-only SQL transaction
    "40001": RETRY,  # serialization failure
    "40P01": RETRY,  # deadlock
    "53": OVERLOADED,  # insufficient resources, such as too many connections
    "55P03": RETRY,  # lock timeout
    "57014": OVERLOADED,  # statement timeout
    "57P": UNAVAILABLE,  # server is shutting down, has crashed or is starting up
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


def problem_for(error: Exception) -> Problem:
    """Return the problem for an error: `INTERNAL` if it is not a known one."""
    match error:
        case ServiceError():
            return error.problem()
        case exc.TimeoutError():  # the pool had no free connection within POOL_TIMEOUT
            return OVERLOADED
        case exc.DBAPIError():
            return _database_problem(error)
        case exc.PendingRollbackError(code="8s2b"):  # the connection was lost between statements
            return UNAVAILABLE
        case StaleDataError():  # the version column no longer has the value that was read
            return STALE
    return INTERNAL


def _database_problem(error: exc.DBAPIError) -> Problem:
    if isinstance(error.orig, CommitOutcomeUnknownError):
        return UNKNOWN
    if error.connection_invalidated:
        if isinstance(error.orig, IdleTransactionError):
            return IDLE
        is_outdated = getattr(error.orig, "sqlstate", None) in {"XX000", "42704"}
        return RETRY if is_outdated else UNAVAILABLE
    if type(error.orig).__name__ == "InvalidCachedStatementError":  # a migration has changed a type
        return RETRY
    codes: tuple[str, ...]
    if sqlite := getattr(error.orig, "sqlite_errorname", None):
        codes = (sqlite, "_".join(sqlite.split("_")[:2]))
    elif sqlstate := getattr(error.orig, "sqlstate", None):
        codes = (sqlstate, sqlstate[:3], sqlstate[:2])
    else:  # the error has no code of either database: the connection failed
        return UNAVAILABLE if isinstance(error, exc.OperationalError) else INTERNAL
    return next((DATABASE_PROBLEMS[code] for code in codes if code in DATABASE_PROBLEMS), INTERNAL)
