"""Every connection returns to the pool or is closed, however its session ends."""

import asyncio
import itertools
import threading
from collections.abc import AsyncGenerator, Awaitable, Callable, Generator
from time import monotonic
from typing import Annotated

import pytest
from fastapi import BackgroundTasks, Depends, FastAPI, Request, Response, WebSocket
from fastapi.responses import StreamingResponse
from httpx2 import AsyncClient
from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncSession
from websockets.asyncio.client import connect

from app.core.db import dispose_engines, session_scope
from app.core.web.disconnects import SECONDS_BEFORE_WATCHING
from app.dependencies import SessionDep
from tests.inspection import checked_out, fetch, pid, stored_users, until_active
from tests.support import configure, disconnecting, new_user, serve, serves, until

# Clients that disconnect


async def is_not_in_a_transaction(number: int) -> bool:
    return not await fetch(
        f"SELECT 1 FROM pg_stat_activity WHERE pid = {number} AND xact_start IS NOT NULL"
    )


async def give_the_middleware_time_to_cancel() -> None:
    """Wait longer than the middleware needs. No event shows that it has not cancelled the request."""
    await asyncio.sleep(3 * SECONDS_BEFORE_WATCHING)


@pytest.mark.postgresql
async def test_disconnect_during_a_statement_ends_the_transaction(
    app: FastAPI, server: AsyncClient
) -> None:
    pids: list[int] = []

    @app.post("/slow")
    async def slow(session: SessionDep) -> None:
        session.add(new_user())
        pids.append(await pid(session))
        await session.execute(text("SELECT pg_sleep(60)"))

    async with disconnecting(server, "POST", "/slow"):
        await until(lambda: bool(pids))
        await until_active(pids[0])
    await until(lambda: is_not_in_a_transaction(pids[0]))

    await until(lambda: not checked_out())
    assert await stored_users() == 0


@pytest.mark.sqlite  # it uses no database
async def test_disconnect_after_the_body_was_sent_cancels_the_request(
    app: FastAPI, server: AsyncClient
) -> None:
    started = asyncio.Queue[None]()
    cancelled = asyncio.Queue[tuple[bool, int]]()

    @app.post("/slow/{length}")
    async def slow(request: Request, length: int, is_read: bool) -> None:
        assert not is_read or len(await request.body()) == length
        started.put_nowait(None)
        try:
            await asyncio.Event().wait()
        finally:
            cancelled.put_nowait((is_read, length))

    for case in itertools.product((True, False), (0, 1, 100_000)):
        is_read, length = case
        content = b"x" * length
        sending = asyncio.create_task(
            server.post(f"/slow/{length}?is_read={is_read}", content=content)
        )
        await started.get()
        sending.cancel()

        async with asyncio.timeout(10):
            assert await cancelled.get() == case


async def test_disconnect_while_waiting_for_a_connection_ends_the_wait(
    app: FastAPI, single_connection: None, server: AsyncClient, environment: pytest.MonkeyPatch
) -> None:
    configure(environment, pool_timeout=60)
    waiting = asyncio.Event()
    ended = asyncio.Event()

    @app.get("/wait")
    async def wait(session: SessionDep) -> None:
        waiting.set()
        try:
            await session.execute(text("SELECT 1"))
        finally:
            ended.set()

    async with session_scope() as session:
        await session.execute(text("SELECT 1"))
        async with disconnecting(server, "GET", "/wait"):
            await waiting.wait()
        async with asyncio.timeout(10):
            await ended.wait()

    assert await serves(server)


@pytest.mark.sqlite  # it uses no database
async def test_disconnect_does_not_close_dependencies_that_a_thread_still_uses(
    app: FastAPI, server: AsyncClient
) -> None:
    events: list[str] = []
    may_end = threading.Event()

    def resource() -> Generator[None, None, None]:
        yield
        events.append("closed")

    @app.get("/thread")
    def work(session: SessionDep, resource: Annotated[None, Depends(resource)]) -> None:
        events.append("started")
        may_end.wait(10)
        events.append("done")

    async with disconnecting(server, "GET", "/thread"):
        await until(lambda: events == ["started"])
    await give_the_middleware_time_to_cancel()
    may_end.set()
    await until(lambda: "closed" in events)

    assert events == ["started", "done", "closed"]


async def test_disconnect_is_not_logged_as_an_error(
    app: FastAPI, caplog: pytest.LogCaptureFixture
) -> None:
    """An outer middleware sees a response with status 499."""
    started = asyncio.Event()
    statuses: list[int] = []

    @app.middleware("http")
    async def outer(
        request: Request, call_next: Callable[[Request], Awaitable[Response]]
    ) -> Response:
        response = await call_next(request)
        statuses.append(response.status_code)
        return response

    @app.get("/slow")
    async def slow(session: SessionDep) -> None:
        await session.execute(text("SELECT 1"))
        started.set()
        await asyncio.Event().wait()

    async with serve(app) as server:
        async with disconnecting(server, "GET", "/slow"):
            await started.wait()
        await until(lambda: bool(statuses))

    assert statuses == [499]
    assert "Error" not in caplog.text


async def test_disconnect_does_not_cancel_a_background_task(
    app: FastAPI, server: AsyncClient
) -> None:
    may_end = asyncio.Event()

    async def write() -> None:
        async with session_scope() as session:
            session.add(new_user())
            await session.flush()
            await may_end.wait()

    @app.get("/later")
    async def later(tasks: BackgroundTasks) -> None:
        tasks.add_task(write)

    async def is_stored() -> bool:
        return await stored_users() == 1

    async with disconnecting(server, "GET", "/later") as reader:
        await reader.readuntil(b"null")
    await give_the_middleware_time_to_cancel()
    may_end.set()

    await until(is_stored)


async def test_disconnect_during_a_stream_rolls_back(app: FastAPI, server: AsyncClient) -> None:
    async def lines() -> AsyncGenerator[str, None]:
        async with session_scope() as session:
            session.add(new_user())
            while True:
                yield f"{await session.scalar(text('SELECT 1'))}\n"

    @app.get("/lines")
    async def stream() -> StreamingResponse:
        return StreamingResponse(lines())

    tasks = len(asyncio.all_tasks())
    for _ in range(10):
        async with disconnecting(server, "GET", "/lines") as reader:
            await reader.readuntil(b"1\n")
    await until(lambda: not checked_out())

    await until(lambda: len(asyncio.all_tasks()) == tasks)
    assert await stored_users() == 0


async def test_task_cancelled_while_connecting_leaks_no_connection(
    databases: None,
) -> None:
    async def connect_and_write() -> None:
        async with session_scope() as session:
            session.add(new_user())
            await session.flush()
            await asyncio.Event().wait()

    for delay in range(0, 60, 2):  # tenths of a millisecond
        await dispose_engines()
        task = asyncio.create_task(connect_and_write())
        end = monotonic() + delay / 10_000
        while monotonic() < end:  # noqa: ASYNC110, asyncio.sleep is too coarse
            await asyncio.sleep(0)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task

        assert not checked_out()
    assert await stored_users() == 0


# WebSockets


@pytest.mark.parametrize(("end", "rows"), [("normally", 1), ("disconnected", 0)])
async def test_websocket_commits_on_a_normal_end_and_rolls_back_on_a_disconnect(
    app: FastAPI, server: AsyncClient, end: str, rows: int
) -> None:
    @app.websocket("/ws")
    async def socket(websocket: WebSocket, session: SessionDep) -> None:
        await websocket.accept()
        session.add(new_user())
        await session.flush()
        await websocket.send_text("written")
        await websocket.receive_text()

    url = str(server.base_url.copy_with(scheme="ws", path="/ws"))
    async with connect(url) as websocket:
        assert await websocket.recv() == "written"
        if end == "normally":
            await websocket.send("end")
            await websocket.wait_closed()
    await until(lambda: not checked_out())

    assert rows == await stored_users()


# Tasks that still use a session at its end


async def fail() -> None:
    raise LookupError


async def test_session_in_use_by_a_task_returns_its_connection(databases: None) -> None:
    with pytest.raises(LookupError):
        async with session_scope() as session:
            session.add(new_user())
            await session.flush()
            await asyncio.gather(session.execute(text("SELECT 1")), fail())

    assert await stored_users() == 0


async def test_session_that_ends_while_a_task_connects_leaks_no_connection(databases: None) -> None:
    async def write(session: AsyncSession) -> None:
        session.add(new_user())
        await session.flush()

    for steps in range(6):
        await dispose_engines()
        with pytest.raises(LookupError):
            async with session_scope() as session:
                task = asyncio.create_task(write(session))
                for _ in range(steps):
                    await asyncio.sleep(0)
                raise LookupError
        await asyncio.wait([task])

        assert task.exception(), steps
        assert not checked_out(), steps
    assert await stored_users() == 0


async def test_task_that_uses_a_closed_session_gets_no_connection(
    databases: None,
) -> None:
    started = asyncio.Event()
    errors: list[Exception] = []

    async def keep_using(session: AsyncSession) -> None:
        started.set()
        for _ in range(3):
            try:
                await session.execute(text("SELECT 1"))
                await session.rollback()
            except Exception as error:
                errors.append(error)

    with pytest.raises(LookupError):
        async with session_scope() as session:
            task = asyncio.create_task(keep_using(session))
            await started.wait()
            raise LookupError
    await task

    assert errors
    assert not checked_out()
