"""Middleware that responds to HEAD as to GET, without the body (RFC 9110, 9.3.2)."""

from starlette.types import ASGIApp, Message, Receive, Scope, Send


class HeadMiddleware:
    """Call the route of GET for HEAD. FastAPI's routes for GET would respond with 405.

    It changes the scope in place: middleware around this one, and the server, see HEAD.
    """

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http" or scope["method"] != "HEAD":
            await self.app(scope, receive, send)
            return
        complete = False

        async def send_head(message: Message) -> None:
            nonlocal complete
            scope["method"] = "HEAD"
            if message["type"] == "http.response.body":
                if complete:
                    return
                complete = True  # the server reports a disconnect, which ends a stream
                message = {"type": "http.response.body"}
            await send(message)

        scope["method"] = "GET"
        try:
            await self.app(scope, receive, send_head)
        finally:
            scope["method"] = "HEAD"
