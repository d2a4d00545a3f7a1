"""Middleware that logs one line per request, and gives the request and its response an id."""

import logging
import re
from http import HTTPStatus
from random import getrandbits
from time import perf_counter
from urllib.parse import quote

from starlette.datastructures import MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from app.core.database.statistics import DatabaseStatistics, work
from app.core.process.logging import request_id

REQUEST_ID = "X-Request-ID"
REQUEST_ID_KEY = REQUEST_ID.lower().encode()
MAX_PATH_LENGTH = 200  # characters
LINE = "%(method)s %(route)s %(status)s %(duration_ms)s ms, %(statements)s statements %(database_ms)s ms"

logger = logging.getLogger(__name__)

_is_valid_id = re.compile(rb"[A-Za-z0-9._:+/=-]{1,128}").fullmatch


class RequestLoggingMiddleware:
    """Set `X-Request-ID` on each response, and log a line when the request has ended.

    A valid id that the client sends is kept.
    """

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        begin = perf_counter()
        end = 0.0
        status = 500  # if the application raises: middleware around this one sends the response
        id_ = _id_for(scope)
        request_id.set(id_)
        statistics = DatabaseStatistics()
        work.set(statistics)
        scope.setdefault("state", {})["request_id"] = id_  # `request.state`, in any context

        async def send_with_id(message: Message) -> None:
            nonlocal status, end
            if message["type"] == "http.response.start":
                status = message["status"]
                message.setdefault("headers", [])
                MutableHeaders(scope=message)[REQUEST_ID] = id_
            await send(message)
            end = perf_counter()

        try:
            await self.app(scope, receive, send_with_id)
        finally:
            status = scope.get("refused", status)  # the server has responded, see request_limits.py
            _log(scope, status, (end or perf_counter()) - begin, statistics)


def _log(scope: Scope, status: int, seconds: float, statistics: DatabaseStatistics) -> None:
    route = _route(scope, status)
    # Health probes come every few seconds: at INFO only their failures are logged.
    is_info = status >= HTTPStatus.BAD_REQUEST or not route.startswith("/health/")
    level = logging.INFO if is_info else logging.DEBUG
    if not logger.isEnabledFor(level):
        return
    fields = {
        "method": scope["method"],
        "route": route,
        "status": status,
        "duration_ms": round(seconds * 1000, 1),
        "database_ms": round(statistics.seconds * 1000, 1),
        "statements": statistics.statements,
    }
    # Not logger.log(): it would look for the caller's line in the stack, a third of its time.
    record = logger.makeRecord(logger.name, level, __file__, 0, LINE, (fields,), None, extra=fields)
    logger.handle(record)


def _id_for(scope: Scope) -> str:
    for name, value in scope["headers"]:
        if name == REQUEST_ID_KEY and _is_valid_id(value):
            return str(value, "ascii")
    return f"{getrandbits(128):032x}"


def _route(scope: Scope, status: int) -> str:
    """Return the path template of the route (`/users/{user_id}`): parameters may be personal data.

    It lacks the prefix of a `mount()`. Without a route, return the path as sent; but "-" for a
    redirect, because without its last slash the path may match a route and hold its parameters.
    """
    chosen = scope.get("fastapi", {}).get("effective_route_context") or scope.get("route")
    path: str | None = getattr(chosen, "path", None)
    if path is not None:
        return path
    is_redirected = HTTPStatus.MULTIPLE_CHOICES <= status < HTTPStatus.BAD_REQUEST
    return "-" if is_redirected else quote(scope["path"][:MAX_PATH_LENGTH], errors="replace")
