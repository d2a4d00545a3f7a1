"""Exception handlers: every error becomes an `application/problem+json` response."""

import logging
from collections.abc import Iterator, Sequence
from dataclasses import replace
from http.client import responses
from inspect import isawaitable, iscoroutinefunction
from typing import Any

from fastapi import FastAPI, Request
from fastapi import HTTPException as FastAPIHTTPException
from fastapi.concurrency import run_in_threadpool
from fastapi.encoders import jsonable_encoder
from fastapi.exception_handlers import http_exception_handler, request_validation_exception_handler
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse, Response
from fastapi.routing import iter_route_contexts
from pydantic import BaseModel
from sqlalchemy.exc import SQLAlchemyError
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.middleware.errors import ServerErrorMiddleware
from starlette.routing import BaseRoute, Router
from starlette.types import ASGIApp

from app.core.web.problem_details import INTERNAL, READ_ONLY, Problem, ServiceError, problem_for
from app.core.web.request_logging import REQUEST_ID

MEDIA_TYPE = "application/problem+json"
DEFAULT_HANDLERS = (None, http_exception_handler, request_validation_exception_handler)
WITHOUT_BODY = {204, 205, 304}  # RFC 9110, 15.3.5, 15.3.6, 15.4.5

logger = logging.getLogger(__name__)


class ProblemDocument(BaseModel):
    """The body of an error response, as RFC 9457 defines it."""

    type: str = "about:blank"
    title: str
    status: int
    detail: str | None = None
    errors: list[dict[str, Any]] | None = None


# The error responses of every route, for `FastAPI(responses=)` and so for the OpenAPI schema.
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


class Application(FastAPI):
    """A FastAPI application that handles unexpected errors inside of its middleware.

    FastAPI calls the handler for `Exception` or 500 outside of it: CORS headers would be missing.
    """

    def build_middleware_stack(self) -> ASGIApp:
        handlers = self.exception_handlers
        handler = _once(handlers.pop(500, handlers.get(Exception, unexpected_error)))
        handlers[Exception] = handler  # for errors of the middleware, and mounted applications
        self.user_middleware.append(Middleware(ServerErrorMiddleware, handler=handler))
        _share_handlers(self)
        return super().build_middleware_stack()


def _once(handler: Any) -> Any:
    """Call the handler in the innermost layer that sees an error; the others send no response."""
    is_async = iscoroutinefunction(handler)

    async def handle(request: Request, error: Exception) -> Any:
        if getattr(request.state, "handled_error", None) == id(error):
            return Response()
        call = handler(request, error) if is_async else run_in_threadpool(handler, request, error)
        try:
            response = await call
            if isawaitable(response):  # of an object with `async def __call__`
                response = await response
        except Exception:
            logger.exception("The handler of unexpected errors failed.")
            response = await unexpected_error(request, error)
        request.state.handled_error = id(error)
        return response

    return handle


def add_problem_handlers(app: FastAPI) -> None:
    """Return every error of the app as a problem document. PROBLEM_RESPONSES describes them.

    A handler that the app registers later, or for a narrower class (such as `OperationalError`),
    takes precedence over these.
    """
    app.add_exception_handler(HTTPException, http_error)
    app.add_exception_handler(RequestValidationError, validation_error)
    app.add_exception_handler(ServiceError, service_error)
    app.add_exception_handler(SQLAlchemyError, database_error)
    app.add_exception_handler(ExceptionGroup, exception_group_error)


def _share_handlers(app: Starlette, *parents: Starlette) -> None:
    """Let mounted applications use the handlers of this one, except for errors that they handle."""
    for mounted in _mounted(app.routes):
        if mounted in (app, *parents):  # mounted in itself
            continue
        own = dict(mounted.exception_handlers)
        for error, handler in app.exception_handlers.items():
            if next((own[key] for key in _keys(error) if key in own), None) in DEFAULT_HANDLERS:
                mounted.exception_handlers[error] = handler
        _share_handlers(mounted, app, *parents)


def _mounted(routes: Sequence[BaseRoute]) -> Iterator[Starlette]:
    for context in iter_route_contexts(routes):
        app = getattr(context.original_route, "app", None)
        while app and not isinstance(app, Starlette | Router):
            app = getattr(app, "app", None)  # inside of a middleware
        if isinstance(app, Starlette):
            yield app
        elif app:
            yield from _mounted(app.routes)


def _keys(error: Any) -> tuple[Any, ...]:
    """Return the keys that a handler for this error may have: a status, or a class and its bases."""
    of_status = Exception if error == INTERNAL.status else FastAPIHTTPException
    bases = (of_status if isinstance(error, int) else error).__mro__
    return (error, *bases, INTERNAL.status)


def problem_response(problem: Problem) -> JSONResponse:
    body = {"type": "about:blank", "title": problem.title, "status": problem.status}
    if problem.detail:
        body["detail"] = problem.detail
    return JSONResponse(
        body | problem.members,
        status_code=problem.status,
        headers=problem.headers,
        media_type=MEDIA_TYPE,
    )


async def http_error(_: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    headers = dict(error.headers or {})
    if error.status_code in WITHOUT_BODY:
        return Response(status_code=error.status_code, headers=headers)
    title = responses.get(error.status_code, "Error")
    detail = error.detail if error.detail != title else None
    return problem_response(Problem(error.status_code, title, detail, headers))


async def validation_error(_: Request, error: Exception) -> JSONResponse:
    """Name the invalid fields without their values: a value may be a secret."""
    assert isinstance(error, RequestValidationError)
    fields = [{key: e[key] for key in ("loc", "msg", "type")} for e in error.errors()]
    detail = "The request does not have the right form."
    members = {"errors": jsonable_encoder(fields)}
    return problem_response(Problem(422, "Unprocessable content", detail, members=members))


async def service_error(_: Request, error: Exception) -> JSONResponse:
    return problem_response(problem_for(error))


async def database_error(_: Request, error: Exception) -> JSONResponse:
    """Log the cause, which the response does not contain. The engine hides the parameters."""
    problem = problem_for(error)
    if problem is READ_ONLY:
        logger.error(
            "A write reached a read-only session or a standby server: use SessionDep, or point the "
            "URL at the primary server.",
            exc_info=error,
        )
    elif problem.status == INTERNAL.status:
        logger.error("A statement failed.", exc_info=error)
    else:
        cause = getattr(error, "orig", None) or error
        notes = "; ".join([str(cause), *getattr(error, "__notes__", [])])
        logger.warning("%s (%s): %s", problem.title, problem.status, notes)
    return problem_response(problem)


async def exception_group_error(request: Request, error: Exception) -> JSONResponse:
    """Handle the first error of an `asyncio.TaskGroup` as if the route had raised it."""
    first = error
    while isinstance(first, ExceptionGroup):
        first = first.exceptions[0]
    match first:
        case ServiceError():
            return await service_error(request, first)
        case SQLAlchemyError():
            return await database_error(request, first)
    raise error


async def unexpected_error(request: Request, error: Exception) -> JSONResponse:
    """Respond with 500 and the request id; the server logs the error.

    `RequestLoggingMiddleware` cannot add the header to an error of a middleware.
    """
    request_id = getattr(request.state, "request_id", None)
    headers = {REQUEST_ID: request_id} if request_id else {}
    return problem_response(replace(problem_for(error), headers=headers))
