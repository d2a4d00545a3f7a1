"""Read-only sessions on PostgreSQL: a statement begins no transaction, a stream is one snapshot."""

import asyncio
from contextlib import AbstractContextManager, nullcontext, suppress

import pytest
from sqlalchemy import text
from sqlalchemy.exc import DBAPIError, PendingRollbackError

from app.core.db import session_scope
from tests.inspection import fetch, kill, pid, until_active
from tests.support import new_user

pytestmark = pytest.mark.postgresql

USERS = text("SELECT id FROM users")


async def state_of(process: int) -> str:
    """Return the state of a connection: idle, idle in transaction …"""
    [(state,)] = await fetch(f"SELECT state FROM pg_stat_activity WHERE pid = {process}")
    return str(state)


async def test_read_only_session_waits_outside_a_transaction(databases: None) -> None:
    async with session_scope(read_only=True) as session:
        assert await session.scalar(text("SHOW default_transaction_read_only")) == "on"
        assert await state_of(await pid(session)) == "idle"


async def test_stream_is_one_snapshot(databases: None) -> None:
    async with session_scope() as session:
        session.add_all(new_user() for _ in range(200))

    for expected in (200, 201):  # the second stream is on the connection of the first one
        async with session_scope(read_only=True) as session:
            stream = (await session.stream_scalars(USERS)).__aiter__()
            await anext(stream)
            async with session_scope() as other:
                other.add(new_user())
            assert 1 + len([row async for row in stream]) == expected


async def test_stream_leaves_no_transaction_to_the_next_session(single_connection: None) -> None:
    async with session_scope(read_only=True) as session:
        await session.stream(USERS)
        before = await pid(session)
    async with session_scope(read_only=True) as session:
        assert await pid(session) == before
        assert await state_of(before) == "idle"


async def test_refused_write_that_is_swallowed_fails_the_commit(databases: None) -> None:
    with pytest.raises(PendingRollbackError):
        async with session_scope(read_only=True) as session:
            await session.execute(USERS)
            session.add(new_user())
            with suppress(DBAPIError):
                await session.flush()


async def test_object_that_is_added_after_a_read_is_refused(databases: None) -> None:
    with pytest.raises(DBAPIError, match="read-only"):
        async with session_scope(read_only=True) as session:
            await session.execute(USERS)
            session.add(new_user())


@pytest.mark.parametrize(
    ("read_only", "ends"),
    # Only a writing session has to send COMMIT, and a connection that is in use refuses it.
    [(True, nullcontext()), (False, pytest.raises(DBAPIError))],
    ids=["read-only", "writing"],
)
async def test_connection_that_a_task_still_uses_is_not_given_to_the_next_session(
    single_connection: None, read_only: bool, ends: AbstractContextManager[object]
) -> None:
    with ends:
        async with session_scope(read_only=read_only) as session:
            before = await pid(session)
            task = asyncio.create_task(session.execute(text("SELECT pg_sleep(60)")))
            await until_active(before)

    async with asyncio.timeout(10), session_scope(read_only=read_only) as session:
        assert await pid(session) != before
    with pytest.raises(DBAPIError):
        await task
    await kill(before)  # otherwise the server sleeps on
