"""The pool is first in, first out, and a cancelled or timed-out wait loses no connection."""

import asyncio

import pytest
from sqlalchemy import text
from sqlalchemy.exc import TimeoutError as PoolTimeoutError

from app.core.db import session_scope
from tests.conformance.inspection import requests_in_queue
from tests.inspection import checked_out, connections
from tests.support import configure, until


async def test_connection_goes_to_the_task_that_has_waited_longest(single_connection: None) -> None:
    order: list[int] = []

    async def use(number: int) -> None:
        for _ in range(3):
            async with session_scope() as session:
                await session.execute(text("SELECT 1"))
                order.append(number)

    await asyncio.gather(*(use(number) for number in range(10)))

    assert [*range(10)] * 3 == order


@pytest.mark.parametrize("read_only", [False, True])
async def test_overflow_connection_is_closed_when_it_is_returned(
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


async def test_connection_handed_to_a_task_that_is_then_cancelled_is_not_lost(
    single_connection: None,
) -> None:
    async def use() -> None:
        async with session_scope() as session:
            await session.execute(text("SELECT 1"))

    async with session_scope() as holder:
        await holder.execute(text("SELECT 1"))
        waiting = asyncio.create_task(use())
        await until(lambda: requests_in_queue() == 1)
    waiting.cancel()  # it has received the connection, but has not run since then
    await asyncio.wait([waiting])

    await use()


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
