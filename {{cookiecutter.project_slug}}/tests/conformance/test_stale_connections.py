"""A stale pooled connection never makes a request fail."""

import asyncio
import os
import threading

import pytest
from fastapi import FastAPI
from httpx2 import AsyncClient

from app.core.config import variable
from app.core.db import dispose_engines, session_scope
from tests.conformance.harness.proxy import Proxy
from tests.conformance.inspection import IDLE_BEFORE_PING, PING_TIMEOUT
from tests.inspection import kill, pid
from tests.support import serves, set_databases, until

pytestmark = pytest.mark.postgresql

# asyncpg's `terminate()` sends this message at once. `close()` waits for the pending ping instead,
# for two seconds, and sends nothing.
TERMINATE = b"X\x00\x00\x00\x04"


async def fill_pool(size: int, *, read_only: bool = False) -> list[int]:
    """Put this many idle connections into the pool, and return their process IDs."""
    ready = asyncio.Barrier(size)

    async def use() -> int:
        async with session_scope(read_only=read_only) as session:
            number = await pid(session)
            await ready.wait()
            return number

    return await asyncio.gather(*(use() for _ in range(size)))


async def test_requests_succeed_after_the_server_closed_all_pooled_connections(
    app: FastAPI, server: AsyncClient
) -> None:
    await kill(*await fill_pool(5), *await fill_pool(5, read_only=True))

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
