"""DisconnectMiddleware: what the app receives from a watched client, and when watching stops."""

import asyncio
from collections.abc import AsyncGenerator

import pytest
from fastapi import BackgroundTasks, FastAPI, Request, Response
from httpx2 import AsyncClient
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from app.core.config import get_settings
from app.core.web.disconnects import DisconnectMiddleware
from tests.support import disconnecting, until


@pytest.mark.sqlite  # it uses no database
async def test_body_arrives_whole_and_in_order(app: FastAPI, server: AsyncClient) -> None:
    async def numbers() -> AsyncGenerator[bytes, None]:
        for number in range(100):
            yield f"{number} ".encode() * 1000

    @app.post("/body")
    async def body(request: Request) -> bool:
        received = b"".join([chunk async for chunk in request.stream()])
        return [int(number) for number in received.split()][::1000] == [*range(100)]

    assert (await server.post("/body", content=numbers())).json() is True


@pytest.mark.sqlite  # it uses no database
async def test_unread_body_is_not_requested_with_100_continue(
    app: FastAPI, server: AsyncClient
) -> None:
    @app.post("/refuse")
    async def refuse() -> None:
        pass

    headers = ("Content-Length: 1000", "Expect: 100-continue")
    async with disconnecting(server, "POST", "/refuse", *headers) as reader:
        assert await reader.readline() == b"HTTP/1.1 200 OK\r\n"


@pytest.mark.sqlite  # it uses no database
async def test_is_disconnected_is_false_while_the_client_is_connected(
    app: FastAPI, server: AsyncClient
) -> None:
    results: list[bool] = []
    called = asyncio.Event()

    @app.get("/connected")
    async def connected(request: Request) -> None:
        results.append(await request.is_disconnected())
        called.set()

    async with disconnecting(server, "GET", "/connected"):
        await called.wait()

    assert results == [False]


class WaitingClient:
    """An ASGI client that has sent its request and waits for the response."""

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
    """Send a request of such a client to the app, behind the middleware."""
    client = WaitingClient()
    scope = {"type": "http", "headers": []}
    return asyncio.ensure_future(DisconnectMiddleware(app)(scope, client.receive, client.send))


async def test_cancellation_by_the_server_is_propagated() -> None:
    """uvicorn cancels a request like this when `timeout_graceful_shutdown` has passed."""
    begun = asyncio.Event()

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        begun.set()
        await asyncio.Event().wait()

    task = request(app)
    await begun.wait()
    task.cancel()
    await asyncio.wait([task])

    assert task.cancelled()


async def test_watching_ends_with_the_request() -> None:
    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        begun = len(asyncio.all_tasks())
        await until(lambda: len(asyncio.all_tasks()) > begun)  # the middleware watches
        await send({"type": "http.response.start", "status": 204, "headers": []})

    await request(app)

    await until(lambda: asyncio.all_tasks() == {asyncio.current_task()})


async def test_request_that_ends_early_is_never_watched(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("app.core.web.disconnects.SECONDS_BEFORE_WATCHING", 0.0)
    reads: list[str] = []

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await send({"type": "http.response.start", "status": 204, "headers": []})

    async def receive() -> Message:
        reads.append("read")
        return {"type": "http.disconnect"}

    async def send(message: Message) -> None:
        pass

    await DisconnectMiddleware(app)({"type": "http", "headers": []}, receive, send)
    for _ in range(5):  # a watcher would have read by then
        await asyncio.sleep(0)

    assert reads == []


@pytest.mark.sqlite  # it uses no database
async def test_slow_client_gets_a_large_response_and_background_tasks_do_not_wait_for_it(
    app: FastAPI, server: AsyncClient, environment: pytest.MonkeyPatch
) -> None:
    size = 20 * 2**20
    done: list[str] = []
    environment.setenv("WRITE_TIMEOUT", "2")
    get_settings.cache_clear()

    @app.get("/large")
    async def large(tasks: BackgroundTasks) -> Response:
        tasks.add_task(done.append, "large")
        return Response(bytes(size))

    async with disconnecting(server, "GET", "/large") as reader:
        await until(lambda: done == ["large"])
        await reader.readuntil(b"\r\n\r\n")
        for _ in range(8):  # together longer than WRITE_TIMEOUT
            size -= len(await reader.readexactly(2**18))
            await asyncio.sleep(0.3)

        assert len(await reader.readexactly(size)) == size
