"""What the app still sees of a client that is watched. What a leaving client costs: test_always_closed.py."""

import asyncio
from collections.abc import AsyncGenerator

from fastapi import FastAPI, Request
from httpx2 import AsyncClient
from starlette.types import Message, Receive, Scope, Send

from app.core.disconnects import CancelOnDisconnect
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


async def test_cancellation_by_somebody_else_goes_on() -> None:
    """As a server cancels what has not ended when its time to stop is over."""
    begun = asyncio.Event()

    async def receive() -> Message:
        if not begun.is_set():
            return {"type": "http.request"}
        return await asyncio.Future()

    async def send(message: Message) -> None:
        pass

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await receive()
        begun.set()
        await asyncio.Event().wait()

    scope = {"type": "http", "headers": []}
    request = asyncio.ensure_future(CancelOnDisconnect(app)(scope, receive, send))
    await begun.wait()
    request.cancel()
    await asyncio.wait([request])

    assert request.cancelled()
