"""What the app still sees of a client that is watched. What a leaving client costs: test_always_closed.py."""

import asyncio
from collections.abc import AsyncGenerator

import pytest
from fastapi import FastAPI, Request
from httpx2 import AsyncClient
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from app.core.web.disconnects import SECONDS_BEFORE_WATCHING, DisconnectMiddleware
from tests.support import leaving


async def test_body_arrives_whole_and_in_order(app: FastAPI, server: AsyncClient) -> None:
    async def numbers() -> AsyncGenerator[bytes, None]:
        for number in range(100):
            yield f"{number} ".encode() * 1000

    @app.post("/body")
    async def body(request: Request) -> bool:
        received = b"".join([chunk async for chunk in request.stream()])
        return [int(number) for number in received.split()][::1000] == [*range(100)]

    assert (await server.post("/body", content=numbers())).json() is True


async def test_body_that_is_not_asked_for_is_not_asked_for(
    app: FastAPI, server: AsyncClient
) -> None:
    @app.post("/refuse")
    async def refuse() -> None:
        pass

    headers = ("Content-Length: 1000", "Expect: 100-continue")
    async with leaving(server, "POST", "/refuse", *headers) as answer:
        assert await answer.readline() == b"HTTP/1.1 200 OK\r\n"


async def test_app_may_ask_whether_its_client_is_there(app: FastAPI, server: AsyncClient) -> None:
    answered: list[bool] = []
    asked = asyncio.Event()

    @app.get("/there")
    async def there(request: Request) -> None:
        answered.append(await request.is_disconnected())
        asked.set()

    async with leaving(server, "GET", "/there"):
        await asked.wait()

    assert answered == [False]


class Waiting:
    """A client that has sent its request and waits for the answer, whoever serves it."""

    def __init__(self) -> None:
        self._has_sent = False

    async def receive(self) -> Message:
        if self._has_sent:
            await asyncio.Event().wait()
        self._has_sent = True
        return {"type": "http.request"}

    async def send(self, message: Message) -> None:
        pass


def request(app: ASGIApp) -> asyncio.Future[None]:
    """Let the app answer such a client."""
    client = Waiting()
    scope = {"type": "http", "headers": []}
    return asyncio.ensure_future(DisconnectMiddleware(app)(scope, client.receive, client.send))


async def test_cancellation_by_somebody_else_goes_on() -> None:
    """As a server cancels what has not ended when its time to stop is over."""
    begun = asyncio.Event()

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        begun.set()
        await asyncio.Event().wait()

    answering = request(app)
    await begun.wait()
    answering.cancel()
    await asyncio.wait([answering])

    assert answering.cancelled()


@pytest.mark.parametrize("seconds", [0, 2 * SECONDS_BEFORE_WATCHING])
async def test_client_is_watched_no_longer_than_its_request(seconds: float) -> None:
    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await asyncio.sleep(seconds)
        await send({"type": "http.response.start", "status": 204, "headers": []})

    await request(app)
    await asyncio.sleep(2 * SECONDS_BEFORE_WATCHING)

    assert asyncio.all_tasks() == {asyncio.current_task()}
