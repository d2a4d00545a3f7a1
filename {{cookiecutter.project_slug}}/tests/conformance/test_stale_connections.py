"""A stale pooled connection never makes a request fail."""

import asyncio
import os
import threading
from typing import Any

import pytest
from fastapi import FastAPI
from httpx2 import AsyncClient

from app.core.config import variable
from app.core.db import dispose_engines, session_scope
from tests.conformance.harness.proxy import Proxy
from tests.conformance.inspection import IDLE_BEFORE_PING, PING_TIMEOUT
from tests.inspection import driver, kill, pid
from tests.support import USERS, serves, set_databases, until, user_values

pytestmark = pytest.mark.postgresql

# asyncpg's `terminate()` sends this message at once. `close()` waits for the pending ping instead,
# for two seconds, and sends nothing.
TERMINATE = b"X\x00\x00\x00\x04"


async def fill_pool(
    size: int, *, read_only: bool = False, drivers: list[Any] | None = None
) -> list[int]:
    """Put this many idle connections into the pool, and return their process IDs."""
    ready = asyncio.Barrier(size)

    async def use() -> int:
        async with session_scope(read_only=read_only) as session:
            number = await pid(session)
            if drivers is not None:
                drivers.append(await driver(session))
            await ready.wait()
            return number

    return await asyncio.gather(*(use() for _ in range(size)))


async def test_requests_succeed_after_the_server_closed_all_pooled_connections(
    app: FastAPI, server: AsyncClient
) -> None:
    drivers: list[Any] = []
    pids = await fill_pool(5, drivers=drivers)
    await kill(*pids, *await fill_pool(5, read_only=True, drivers=drivers))
    # PostgreSQL closes a socket some milliseconds after the end of its backend.
    await until(lambda: all(each.is_closed() for each in drivers))

    assert all(await asyncio.gather(*(serves(server) for _ in range(10))))


async def test_closed_connection_is_replaced_before_the_event_loop_has_seen_it_close(
    databases: None,
) -> None:
    pids = await fill_pool(5)
    killing = threading.Thread(target=lambda: asyncio.run(kill(*pids)))
    killing.start()
    killing.join()  # blocks this event loop

    for _ in range(5):
        async with session_scope() as session:
            assert await pid(session) not in pids


async def test_silently_cut_connection_is_terminated_at_once_and_replaced(
    databases: None, environment: pytest.MonkeyPatch
) -> None:
    environment.setattr(IDLE_BEFORE_PING, 0.0)
    environment.setattr(PING_TIMEOUT, 0.2)
    async with Proxy(os.environ[variable("primary")]) as proxy:
        set_databases(environment, {"primary": proxy.url})
        async with session_scope() as session:
            before = await pid(session)
        proxy.cut()

        async with session_scope() as session:
            assert await pid(session) != before
        await until(lambda: TERMINATE in proxy.discarded)
        await dispose_engines()


@pytest.mark.parametrize(("idle_before_ping", "status"), [(60.0, 503), (0.0, 201)])
async def test_terminated_connection_that_is_not_closed_yet_is_replaced(
    server: AsyncClient, environment: pytest.MonkeyPatch, idle_before_ping: float, status: int
) -> None:
    """The server sends a message, and some milliseconds later it closes the socket.

    In between, only a ping detects that. Without one, the next request gets 503.
    """
    environment.setattr(IDLE_BEFORE_PING, idle_before_ping)
    async with Proxy(os.environ[variable("primary")]) as proxy:
        set_databases(environment, {"primary": proxy.url})
        pids = await fill_pool(1)
        proxy.keep_open()
        await kill(*pids)
        await until(lambda: proxy.ended == 1)
        await asyncio.sleep(0)  # this event loop reads the message

        response = await server.post(USERS, json=user_values())

        assert response.status_code == status
        assert ("Retry-After" in response.headers) == (status == 503)
        assert await serves(server)
        await dispose_engines()
