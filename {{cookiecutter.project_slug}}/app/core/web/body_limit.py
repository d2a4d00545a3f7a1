"""A request whose body is too large is answered with 413, however it tells its length."""

from starlette.exceptions import HTTPException
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from app.core.web.problem_details import TOO_LARGE, answer


class BodyLimitMiddleware:
    """FastAPI's own `max_body_size` would answer in plain text, past every handler and middleware."""

    def __init__(self, app: ASGIApp, size: int) -> None:
        self.app = app
        self.size = size

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http" or scope["method"] in {"GET", "HEAD"}:
            await self.app(scope, receive, send)
            return
        if _declared(scope) > self.size:
            await answer(TOO_LARGE)(scope, receive, send)
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


def _declared(scope: Scope) -> int:
    for name, value in scope["headers"]:
        if name == b"content-length" and value.isdigit():
            return int(value)
    return 0
