"""How the service speaks: one line for each request, and its id on every line and answer."""

import logging
import re
from contextvars import ContextVar
from random import getrandbits
from time import perf_counter
from typing import Any
from urllib.parse import quote

from starlette.types import ASGIApp, Message, Receive, Scope, Send

REQUEST_ID = "X-Request-ID"
REQUEST_ID_KEY = REQUEST_ID.lower().encode()

logger = logging.getLogger(__name__)

request_id: ContextVar[str] = ContextVar("request_id", default="-")

_is_sane = re.compile(rb"[A-Za-z0-9._:+/=-]{1,128}").fullmatch


class KnowsRequest(logging.Filter):
    """Give every record the id of the request that it is about."""

    def filter(self, record: logging.LogRecord) -> bool:
        record.request_id = request_id.get()
        return True


# For `logging.config.dictConfig`, and for uvicorn, whose loggers end here too.
LOGGING: dict[str, Any] = {
    "version": 1,
    "disable_existing_loggers": False,
    "filters": {"request": {"()": KnowsRequest}},
    "formatters": {
        "line": {"format": "%(asctime)s %(levelname)s %(name)s [%(request_id)s] %(message)s"}
    },
    "handlers": {
        "stderr": {"class": "logging.StreamHandler", "filters": ["request"], "formatter": "line"}
    },
    "root": {"level": "INFO", "handlers": ["stderr"]},
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
            milliseconds = ((end or perf_counter()) - begin) * 1000
            logger.info("%s %s %s %.1f ms", scope["method"], _route(scope), status, milliseconds)


def _id_of(scope: Scope) -> str:
    for name, value in scope["headers"]:
        if name == REQUEST_ID_KEY and _is_sane(value):
            return str(value, "ascii")
    return f"{getrandbits(128):032x}"


def _route(scope: Scope) -> str:
    """Return the path as the router has it: what stands for its parameters may be personal.

    What was added to it by `include_router(prefix=…)` or `mount()` is not in it.
    """
    path: str | None = getattr(scope.get("route"), "path", None)
    return quote(scope["path"], errors="replace") if path is None else path
