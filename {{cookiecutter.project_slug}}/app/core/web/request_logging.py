"""One log line for each request, with an id that the response has too."""

import logging
import re
from http import HTTPStatus
from random import getrandbits
from time import perf_counter
from urllib.parse import quote

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from app.core.database.statistics import DatabaseStatistics, work
from app.core.process.logging import request_id

REQUEST_ID = "X-Request-ID"
REQUEST_ID_KEY = REQUEST_ID.lower().encode()
LONGEST_PATH = 200
LINE = "%(method)s %(route)s %(status)s %(duration_ms)s ms, %(statements)s statements %(database_ms)s ms"

logger = logging.getLogger(__name__)

_is_sane = re.compile(rb"[A-Za-z0-9._:+/=-]{1,128}").fullmatch


class RequestLoggingMiddleware:
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
        done = DatabaseStatistics()
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


def _log(scope: Scope, status: int, seconds: float, done: DatabaseStatistics) -> None:
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
