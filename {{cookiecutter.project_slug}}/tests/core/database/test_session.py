"""Sessions that are cancelled repeatedly, or that use two engines."""

import asyncio

import anyio
import pytest
from sqlalchemy import text

from app.core.db import get_engine, session_scope
from tests.inspection import checked_out, kill, pid, stored_users, until_active
from tests.support import new_user


@pytest.mark.postgresql
async def test_session_that_is_cancelled_twice_returns_a_connection_that_a_task_still_uses(
    single_connection: None,
) -> None:
    """AnyIO, and so Starlette, raises CancelledError again until the cancelled scope has ended."""
    with anyio.CancelScope() as scope:
        async with session_scope() as session:
            before = await pid(session)
            task = asyncio.create_task(session.execute(text("SELECT pg_sleep(60)")))
            await until_active(before)
            scope.cancel()
            await anyio.sleep_forever()

    assert not checked_out()
    async with session_scope() as session:
        assert await pid(session) != before
    await kill(before)
    await asyncio.wait([task])


async def test_cancelled_scope_ends_after_its_session_has_rolled_back(databases: None) -> None:
    with anyio.CancelScope() as scope:
        async with session_scope() as session:
            session.add(new_user())
            await session.flush()
            scope.cancel()
            await anyio.sleep_forever()

    assert not checked_out()
    assert await stored_users() == 0


async def test_session_on_two_engines_commits_its_write(databases: None) -> None:
    reading = {"bind": get_engine(read_only=True).sync_engine}
    async with session_scope() as session:
        session.add(new_user())
        await session.flush()
        await session.execute(text("SELECT 1"), bind_arguments=reading)

    assert await stored_users() == 1
