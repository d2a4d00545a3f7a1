"""How the service speaks: one line for each request, and its id on every line and answer."""

import logging
import re
from contextvars import ContextVar
from http import HTTPStatus
from random import getrandbits
from time import perf_counter
from typing import Any
from urllib.parse import quote

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from app.core.timing import DatabaseWork, work

REQUEST_ID = "X-Request-ID"
REQUEST_ID_KEY = REQUEST_ID.lower().encode()

# What they have to say besides is no news, such as which plugins there are, or must not be said: aiosqlite
# shows what each statement was given.
QUIET = ("aiosqlite", "alembic", "app.core.pool")

LONGEST_PATH = 200
LINE = "%(method)s %(route)s %(status)s %(duration_ms)s ms, %(statements)s statements %(database_ms)s ms"

logger = logging.getLogger(__name__)

request_id: ContextVar[str] = ContextVar("request_id", default="-")

_is_sane = re.compile(rb"[A-Za-z0-9._:+/=-]{1,128}").fullmatch


class KnowsRequest(logging.Filter):
    """Give every record the id of the request that it is about, and take uvicorn's colours from it."""

    def filter(self, record: logging.LogRecord) -> bool:
        record.request_id = request_id.get()
        vars(record).pop("color_message", None)
        return True


def logging_config(level: str, log_format: str) -> dict[str, Any]:
    """Return what `logging.config.dictConfig` and uvicorn take, whose loggers end here too."""
    return {
        "version": 1,
        "disable_existing_loggers": False,
        "filters": {"request": {"()": KnowsRequest}},
        "formatters": {
            "text": {"format": "%(asctime)s %(levelname)s %(name)s [%(request_id)s] %(message)s"},
            "json": {
                "()": "pythonjsonlogger.json.JsonFormatter",
                "fmt": "{levelname}{name}{message}",
                "style": "{",
                "rename_fields": {"levelname": "level", "name": "logger"},
                "timestamp": True,
            },
        },
        "handlers": {
            "stderr": {
                "class": "logging.StreamHandler",
                "filters": ["request"],
                "formatter": log_format,
            }
        },
        "loggers": {name: {"level": "WARNING"} for name in QUIET},
        "root": {"level": level, "handlers": ["stderr"]},
    }


class LogRequests:
    """Give each request an id, which its answer has too, and write a line when it has ended.

    The id is the client's own if it has sent one that is fit to be logged.
    """

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        begin = perf_counter()
        end = 0.0
        status = 500  # what an error is answered with, outside of here
        key = _id_of(scope)
        request_id.set(key)
        done = DatabaseWork()
        work.set(done)
        scope.setdefault("state", {})["request_id"] = key  # for what runs in another context

        async def send_with_id(message: Message) -> None:
            nonlocal status, end
            if message["type"] == "http.response.start":
                status = message["status"]
                message["headers"] = [*message.get("headers", ()), (REQUEST_ID_KEY, key.encode())]
            await send(message)
            end = perf_counter()

        try:
            await self.app(scope, receive, send_with_id)
        finally:
            _log(scope, status, (end or perf_counter()) - begin, done)


def _log(scope: Scope, status: int, seconds: float, done: DatabaseWork) -> None:
    # Who asks for the service's health asks all the time.
    route = _route(scope, status)
    is_news = status >= HTTPStatus.BAD_REQUEST or not route.startswith("/health/")
    level = logging.INFO if is_news else logging.DEBUG
    if not logger.isEnabledFor(level):
        return
    fields = {
        "method": scope["method"],
        "route": route,
        "status": status,
        "duration_ms": round(seconds * 1000, 1),
        "database_ms": round(done.seconds * 1000, 1),
        "statements": done.statements,
    }
    logger.log(level, LINE, fields, extra=fields)


def _id_of(scope: Scope) -> str:
    for name, value in scope["headers"]:
        if name == REQUEST_ID_KEY and _is_sane(value):
            return str(value, "ascii")
    return f"{getrandbits(128):032x}"


def _route(scope: Scope, status: int) -> str:
    """Return the path as the router has it: what stands for its parameters may be personal.

    What was added to it by `mount()` is not in it. A path that no route has, the router may know with
    a slash less, and then with parameters.
    """
    chosen = scope.get("fastapi", {}).get("effective_route_context") or scope.get("route")
    path: str | None = getattr(chosen, "path", None)
    if path is not None:
        return path
    is_redirected = HTTPStatus.MULTIPLE_CHOICES <= status < HTTPStatus.BAD_REQUEST
    return "-" if is_redirected else quote(scope["path"][:LONGEST_PATH], errors="replace")
