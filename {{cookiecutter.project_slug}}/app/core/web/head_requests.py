"""Middleware that responds to HEAD as to GET, without the body (RFC 9110, 9.3.2)."""

from http import HTTPStatus

from starlette.types import ASGIApp, Message, Receive, Scope, Send


class HeadMiddleware:
    """Repeat a HEAD as GET if there is no route for HEAD itself. FastAPI would respond with 405.

    A mounted application may have such a route, and only a request shows that. So the middleware of
    a mounted application may see both. Middleware around this one, and the server, see one HEAD.
    """

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http" or scope["method"] != "HEAD":
            await self.app(scope, receive, send)
            return
        original = dict(scope)  # routing changes the scope
        is_refused = is_complete = False
        received: list[Message] = []  # for the second run

        async def receive_first() -> Message:
            received.append(await receive())
            return received[-1]

        async def receive_again() -> Message:
            return received.pop(0) if received else await receive()

        async def send_head(message: Message) -> None:
            nonlocal is_refused, is_complete
            if message["type"] == "http.response.start":
                is_not_allowed = message["status"] == HTTPStatus.METHOD_NOT_ALLOWED
                has_body = any(each.get("body") for each in received)
                is_refused = is_not_allowed and scope["method"] == "HEAD" and not has_body
            if is_refused or is_complete:
                return
            scope["method"] = "HEAD"
            if message["type"] == "http.response.body":
                is_complete = True  # the server reports a disconnect, which ends a stream
                message = {"type": "http.response.body"}
            await send(message)

        try:
            await self.app(scope, receive_first, send_head)
            if is_refused:
                scope.clear()
                scope.update(original, method="GET")
                await self.app(scope, receive_again, send_head)
        finally:
            scope["method"] = "HEAD"
