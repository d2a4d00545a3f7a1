"""A client that disconnects before the response starts cancels the request and its transaction."""

import asyncio
import threading

import anyio.to_thread
from fastapi import FastAPI
from httpx2 import AsyncClient
from sqlalchemy import text
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from app.core.db import session_scope
from app.core.web.disconnects import DisconnectMiddleware
from app.dependencies import SessionDep
from tests.inspection import checked_out, stored_users
from tests.support import disconnecting, new_user, until


async def test_client_that_disconnects_rolls_back_and_frees_connection_and_lock(
    app: FastAPI, server: AsyncClient
) -> None:
    written = asyncio.Event()

    @app.post("/slow")
    async def slow(session: SessionDep) -> None:
        session.add(new_user())
        await session.flush()
        written.set()
        while True:
            await session.execute(text("SELECT 1"))

    async with disconnecting(server, "POST", "/slow"):
        await written.wait()
    await until(lambda: not checked_out())

    assert await stored_users() == 0
    async with session_scope() as session:
        session.add(new_user())


class Client:
    """A client that disconnects as soon as the middleware checks whether it has."""

    def __init__(self) -> None:
        self.disconnected = asyncio.Event()
        self.status: int | None = None
        self._has_sent = False

    async def request(self, app: ASGIApp) -> None:
        scope = {"type": "http", "headers": []}
        await DisconnectMiddleware(app)(scope, self._receive, self._send)

    async def _receive(self) -> Message:
        if self._has_sent:
            self.disconnected.set()
            return {"type": "http.disconnect"}
        self._has_sent = True
        return {"type": "http.request"}

    async def _send(self, message: Message) -> None:
        if message["type"] == "http.response.start":
            self.status = message["status"]


async def start_response(send: Send) -> None:
    await send({"type": "http.response.start", "status": 200, "headers": []})


async def test_cancelled_request_has_status_499_and_is_no_error() -> None:
    async def app(_: Scope, receive: Receive, send: Send) -> None:
        await receive()
        await asyncio.Event().wait()

    client = Client()
    async with asyncio.timeout(10):
        await client.request(app)

    assert client.status == 499  # seen by other middleware and the request log only


async def test_background_task_goes_on_when_the_client_disconnects() -> None:
    done: list[str] = []
    client = Client()

    async def app(_: Scope, receive: Receive, send: Send) -> None:
        await receive()
        await start_response(send)
        await client.disconnected.wait()
        await asyncio.sleep(0)
        done.append("background task")

    async with asyncio.timeout(10):
        await client.request(app)

    assert done == ["background task"]


async def test_request_is_cancelled_after_its_thread_has_ended() -> None:
    """Otherwise its session would close while a `def` route still works with it."""
    done: list[str] = []
    client = Client()
    goes_on = threading.Event()

    def route() -> None:
        goes_on.wait(10)
        done.append("thread")

    async def app(_: Scope, receive: Receive, send: Send) -> None:
        await receive()
        try:
            await anyio.to_thread.run_sync(route)
            await asyncio.Event().wait()
        finally:
            done.append("request")

    requesting = asyncio.create_task(client.request(app))
    async with asyncio.timeout(10):
        await client.disconnected.wait()
        await asyncio.sleep(0)
        goes_on.set()
        await requesting

    assert done == ["thread", "request"]
