"""Middleware that responds with 413 to a request whose body is too large."""

from starlette.exceptions import HTTPException
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from app.core.web.error_handlers import problem_response
from app.core.web.problem_details import TOO_LARGE


class BodyLimitMiddleware:
    """Limit the body to `size` bytes, whether it has a Content-Length or is sent in chunks.

    FastAPI's own `max_body_size` would respond in plain text and bypass handlers and middleware.
    """

    def __init__(self, app: ASGIApp, size: int) -> None:
        self.app = app
        self.size = size

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http" or scope["method"] in {"GET", "HEAD"}:
            await self.app(scope, receive, send)
            return
        if _content_length(scope) > self.size:
            await problem_response(TOO_LARGE)(scope, receive, send)
            return
        received = 0

        async def receive_limited() -> Message:
            nonlocal received
            message = await receive()
            received += len(message.get("body", b""))
            if received > self.size:
                raise HTTPException(TOO_LARGE.status)
            return message

        await self.app(scope, receive_limited, send)


def _content_length(scope: Scope) -> int:
    for name, value in scope["headers"]:
        if name == b"content-length" and value.isdigit():
            return int(value)
    return 0
