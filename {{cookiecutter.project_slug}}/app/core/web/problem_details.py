"""How an error becomes an answer: `application/problem+json`, RFC 9457."""

import logging
from dataclasses import dataclass, field, replace
from http.client import responses
from typing import Any

from fastapi import FastAPI, Request
from fastapi.encoders import jsonable_encoder
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse, Response
from fastapi.utils import is_body_allowed_for_status_code
from pydantic import BaseModel
from sqlalchemy import exc
from sqlalchemy.exc import SQLAlchemyError
from sqlalchemy.orm.exc import StaleDataError
from starlette.exceptions import HTTPException

from app.core.web.request_logging import REQUEST_ID

MEDIA_TYPE = "application/problem+json"
RETRY_AFTER = {"Retry-After": "1"}


logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Problem:
    """What an answer says about an error: never SQL, a parameter, a URL or a traceback."""

    status: int
    title: str
    detail: str | None = None
    headers: dict[str, str] = field(default_factory=dict)
    members: dict[str, Any] = field(default_factory=dict)  # beside those of RFC 9457


class ServiceError(Exception):
    """An error that a client can understand; its message is shown to them."""

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


class ProblemDocument(BaseModel):
    """What an error is answered with."""

    type: str = "about:blank"
    title: str
    status: int
    detail: str | None = None
    errors: list[dict[str, Any]] | None = None


# For the description of the API: what every route may answer.
PROBLEM_RESPONSES: dict[int | str, dict[str, Any]] = {
    status: {
        "description": description,
        "content": {MEDIA_TYPE: {"schema": ProblemDocument.model_json_schema()}},
    }
    for status, description in {
        "4XX": "The request cannot be fulfilled as it is.",
        "5XX": "The service cannot fulfil it; 503 says when to try again.",
    }.items()
}


def add_problem_handlers(app: FastAPI) -> None:
    """Answer every error of the app as a problem document, and describe that in its API.

    An app's own handler for a narrower class (`OperationalError`, say) goes before these.
    """
    app.router.responses = PROBLEM_RESPONSES
    app.add_exception_handler(HTTPException, http_error)
    app.add_exception_handler(RequestValidationError, validation_error)
    app.add_exception_handler(ServiceError, service_error)
    app.add_exception_handler(SQLAlchemyError, database_error)
    app.add_exception_handler(ExceptionGroup, error_of_a_task)
    app.add_exception_handler(Exception, unforeseen_error)  # the server logs it


def answer(problem: Problem) -> JSONResponse:
    body = {"type": "about:blank", "title": problem.title, "status": problem.status}
    if problem.detail:
        body["detail"] = problem.detail
    return JSONResponse(
        body | problem.members,
        status_code=problem.status,
        headers=problem.headers,
        media_type=MEDIA_TYPE,
    )


async def service_error(_: Request, error: Exception) -> JSONResponse:
    return answer(problem_of(error))


async def unforeseen_error(request: Request, error: Exception) -> JSONResponse:
    """Answer outside of all middleware, and so with the id that `RequestLoggingMiddleware` gives the others."""
    key = getattr(request.state, "request_id", None)
    return answer(replace(problem_of(error), headers={REQUEST_ID: key} if key else {}))


async def database_error(_: Request, error: Exception) -> JSONResponse:
    """Answer, and log what the answer does not say; SQLAlchemy's words are without parameters."""
    problem = problem_of(error)
    if problem is READ_ONLY:
        logger.error(
            "A read-only session was asked to write, or the server is a standby: ask for SessionDep, or "
            "let the URL lead to the primary.",
            exc_info=error,
        )
    elif problem.status == INTERNAL.status:
        logger.error("A statement has failed.", exc_info=error)
    else:
        cause = getattr(error, "orig", None) or error
        logger.warning("%s (%s): %s", problem.title, problem.status, cause)
    return answer(problem)


async def error_of_a_task(request: Request, error: Exception) -> JSONResponse:
    """Answer the first error of an `asyncio.TaskGroup` as if the route itself had raised it."""
    first = error
    while isinstance(first, ExceptionGroup):
        first = first.exceptions[0]
    match first:
        case ServiceError():
            return await service_error(request, first)
        case SQLAlchemyError():
            return await database_error(request, first)
    raise error


async def http_error(_: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    headers = dict(error.headers or {})
    if not is_body_allowed_for_status_code(error.status_code):
        return Response(status_code=error.status_code, headers=headers)
    title = responses.get(error.status_code, "Error")
    detail = error.detail if error.detail != title else None
    return answer(Problem(error.status_code, title, detail, headers))


async def validation_error(_: Request, error: Exception) -> JSONResponse:
    """Answer with the fields that are wrong, and without their values: one may be a secret."""
    assert isinstance(error, RequestValidationError)
    fields = [{key: e[key] for key in ("loc", "msg", "type")} for e in error.errors()]
    detail = "The request does not have the right form."
    members = {"errors": jsonable_encoder(fields)}
    return answer(Problem(422, "Unprocessable content", detail, members=members))
