"""How an error becomes an answer: `application/problem+json`, RFC 9457."""

import logging
from dataclasses import replace
from http.client import responses
from typing import Any

from fastapi import FastAPI, Request
from fastapi.encoders import jsonable_encoder
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse, Response
from fastapi.utils import is_body_allowed_for_status_code
from pydantic import BaseModel
from sqlalchemy.exc import SQLAlchemyError
from starlette.exceptions import HTTPException

from app.core.errors import INTERNAL, READ_ONLY, Problem, ServiceError, problem_of
from app.core.logging import REQUEST_ID

MEDIA_TYPE = "application/problem+json"


logger = logging.getLogger(__name__)


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
    """Answer outside of all middleware, and so with the id that `LogRequests` gives the others."""
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
