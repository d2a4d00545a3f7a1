"""A connection beyond the pool size is closed, and a cancelled or timed-out wait loses no connection."""

import asyncio

import pytest
from sqlalchemy import text
from sqlalchemy.exc import TimeoutError as PoolTimeoutError

from app.core.db import session_scope
from tests.conformance.inspection import requests_in_queue
from tests.inspection import checked_out, connections
from tests.support import configure, until


@pytest.mark.parametrize("read_only", [False, True])
async def test_connection_beyond_the_pool_size_is_closed_when_it_is_returned(
    databases: None, environment: pytest.MonkeyPatch, read_only: bool
) -> None:
    configure(environment, pool_size=1, max_overflow=1)

    async with (
        session_scope(read_only=read_only) as one,
        session_scope(read_only=read_only) as other,
    ):
        for session in (one, other):
            await session.execute(text("SELECT 1"))

    async def one_is_open() -> bool:
        return await connections() == 1

    await until(one_is_open)


async def test_cancelled_and_timed_out_waits_lose_no_connection(
    databases: None, environment: pytest.MonkeyPatch
) -> None:
    """The moment of the cancellation varies."""
    configure(environment, pool_size=2, pool_timeout=0.005)

    async def use(seconds: float) -> None:
        async with session_scope() as session:
            await session.execute(text("SELECT 1"))
            await asyncio.sleep(seconds)

    for step in range(40):
        tasks = [asyncio.create_task(use(0.005)) for _ in range(8)]
        await asyncio.sleep(step / 4000)
        for task in tasks[::2]:
            task.cancel()
        outcomes = await asyncio.gather(*tasks, return_exceptions=True)
        assert {type(o) for o in outcomes} <= {type(None), asyncio.CancelledError, PoolTimeoutError}

    assert not checked_out()
    assert requests_in_queue() == 0
    async with asyncio.timeout(5), session_scope() as one, session_scope() as other:
        for session in (one, other):
            await session.execute(text("SELECT 1"))


@pytest.mark.postgresql
async def test_connection_that_arrives_at_the_timeout_is_used(
    databases: None, environment: pytest.MonkeyPatch
) -> None:
    """The next session may be too late as well: under load, all sessions would fail in turn."""
    configure(environment, pool_size=1, pool_timeout=0.1)

    async def read() -> None:
        async with session_scope(read_only=True) as session:
            await session.execute(text("SELECT 1"))

    async with session_scope(read_only=True) as session:
        await session.execute(text("SELECT 1"))
        waiting = asyncio.create_task(read())
        await until(lambda: requests_in_queue(read_only=True) == 1)
        timeout = asyncio.get_running_loop().time() + 0.1
        while asyncio.get_running_loop().time() < timeout:
            pass  # the timeout is due, and the event loop has not noticed
        await asyncio.sleep(0)  # the connection is returned in the iteration in which it does

    await waiting
