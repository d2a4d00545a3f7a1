"""The pool serves sessions in the order in which they asked, and loses no connection."""

import asyncio

from sqlalchemy import text

from app.core.db import get_engine, session_scope
from tests.support import query, until


async def test_connection_goes_to_the_session_that_has_waited_longest(
    single_connection: None,
) -> None:
    served: list[int] = []

    async def use(number: int) -> None:
        for _ in range(3):
            await query()
            served.append(number)

    await asyncio.gather(*(use(number) for number in range(10)))

    assert [*range(10)] * 3 == served


async def test_connection_that_is_handed_to_a_cancelled_session_is_not_lost(
    single_connection: None,
) -> None:
    async with session_scope() as session:
        await session.execute(text("SELECT 1"))
        waiting = asyncio.create_task(query())
        await until(lambda: get_engine().pool.waiting == 1)  # type: ignore[attr-defined]
    waiting.cancel()  # it has been handed the connection, and has not run yet
    await asyncio.wait([waiting])

    assert waiting.cancelled()
    await query()
