"""No request fails because its pooled connection has died."""

import asyncio
import os
import threading

import pytest
from fastapi import FastAPI
from httpx2 import AsyncClient

from app.core.config import variable
from app.core.db import dispose_engines, session_scope
from tests.conformance.harness.proxy import Proxy
from tests.inspection import kill, pid
from tests.support import serves, set_databases

pytestmark = pytest.mark.postgresql


async def fill_pool(size: int, *, read_only: bool = False) -> list[int]:
    """Let the pool have this many idle connections; return the numbers of their processes."""
    ready = asyncio.Barrier(size)

    async def use() -> int:
        async with session_scope(read_only=read_only) as session:
            number = await pid(session)
            await ready.wait()
            return number

    return await asyncio.gather(*(use() for _ in range(size)))


async def test_no_request_meets_a_connection_that_the_server_has_closed(
    app: FastAPI, server: AsyncClient
) -> None:
    await kill(*await fill_pool(5), *await fill_pool(5, read_only=True))

    assert all(await asyncio.gather(*(serves(server) for _ in range(10))))


async def test_no_request_meets_it_even_if_the_loop_has_not_heard_of_it(databases: None) -> None:
    pids = await fill_pool(5)
    killing = threading.Thread(target=lambda: asyncio.run(kill(*pids)))
    killing.start()
    killing.join()  # and this loop stands still

    for _ in range(5):
        async with session_scope() as session:
            assert await pid(session) not in pids


async def test_connection_that_was_idle_and_is_well_is_used_again(
    databases: None, environment: pytest.MonkeyPatch
) -> None:
    [before] = await fill_pool(1)
    environment.setattr("app.core.database.postgresql.IDLE_BEFORE_PING", 0.0)

    for _ in range(3):
        async with session_scope() as session:
            assert await pid(session) == before


async def test_connection_that_a_network_has_silently_cut_is_replaced(
    databases: None, environment: pytest.MonkeyPatch
) -> None:
    environment.setattr("app.core.database.postgresql.IDLE_BEFORE_PING", 0.0)
    environment.setattr("app.core.database.postgresql.PING_TIMEOUT", 0.2)
    async with Proxy(os.environ[variable("primary")]) as proxy:
        set_databases(environment, {"primary": proxy.url})
        async with session_scope() as session:
            before = await pid(session)
        proxy.cut()

        async with asyncio.timeout(1.5):  # a good-bye that is answered by nobody takes 2 seconds
            async with session_scope() as session:
                assert await pid(session) != before
        await dispose_engines()
