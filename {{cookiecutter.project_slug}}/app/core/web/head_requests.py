"""Middleware that responds to HEAD as to GET, without the body (RFC 9110, 9.3.2)."""

from starlette.routing import Match, Mount
from starlette.types import ASGIApp, Message, Receive, Scope, Send


class HeadMiddleware:
    """Call the route of GET for HEAD, unless there is one for HEAD. FastAPI would respond with 405.

    The method is GET inside of this middleware only: outer middleware and the server see HEAD.
    """

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http" or scope["method"] != "HEAD" or _has_route(scope):
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


def _has_route(scope: Scope) -> bool:
    """Return whether a route is for HEAD itself. A mounted application matches every method."""
    routes = [route for route in scope["app"].routes if not isinstance(route, Mount)]
    return any(route.matches(scope)[0] is Match.FULL for route in routes)
