"""How an error becomes an answer: `application/problem+json`, RFC 9457."""

from http import HTTPStatus
from typing import Any

from fastapi import FastAPI, Request
from fastapi.encoders import jsonable_encoder
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from sqlalchemy.exc import SQLAlchemyError
from starlette.exceptions import HTTPException

from app.core.errors import Problem, ServiceError, problem_of


def add_problem_handlers(app: FastAPI) -> None:
    """Answer every error of the app as a problem document.

    An app's own handler for a narrower class (`OperationalError`, say) goes before these.
    """
    app.add_exception_handler(HTTPException, http_error)
    app.add_exception_handler(RequestValidationError, validation_error)
    for error in (ServiceError, SQLAlchemyError, Exception):
        app.add_exception_handler(error, any_error)


def answer(problem: Problem, **members: Any) -> JSONResponse:
    body = {"type": "about:blank", "title": problem.title, "status": problem.status}
    if problem.detail:
        body["detail"] = problem.detail
    return JSONResponse(
        body | members,
        status_code=problem.status,
        headers=problem.headers,
        media_type="application/problem+json",
    )


async def any_error(_: Request, error: Exception) -> JSONResponse:
    return answer(problem_of(error))


async def http_error(_: Request, error: Exception) -> JSONResponse:
    assert isinstance(error, HTTPException)
    title = HTTPStatus(error.status_code).phrase
    detail = error.detail if error.detail != title else None
    return answer(Problem(error.status_code, title, detail, dict(error.headers or {})))


async def validation_error(_: Request, error: Exception) -> JSONResponse:
    """Answer with the fields that are wrong, and without their values: one may be a secret."""
    assert isinstance(error, RequestValidationError)
    fields = [{key: e[key] for key in ("loc", "msg", "type")} for e in error.errors()]
    problem = Problem(422, "Unprocessable content", "The request does not have the right form.")
    return answer(problem, errors=jsonable_encoder(fields))
