"""GeneratorExit, and a cancellation at any moment, roll back. tests/core/test_db.py has the others."""

import asyncio

import pytest
from sqlalchemy import text

from app.core.db import session_scope
from tests.inspection import stored_users
from tests.support import new_user


async def test_scope_rolls_back_on_generator_exit_and_raises_it_unchanged(databases: None) -> None:
    """A generator that uses a session may be closed before its end."""
    raised = GeneratorExit("mine")

    with pytest.raises(GeneratorExit) as caught:
        async with session_scope() as session:
            session.add(new_user())
            await session.flush()
            raise raised

    assert caught.value is raised
    assert await stored_users() == 0


async def start_writing_and_reading() -> asyncio.Task[None]:
    """Return a task that has written a user and now reads in a loop, in one session."""
    written = asyncio.Event()

    async def write_and_read() -> None:
        async with session_scope() as session:
            session.add(new_user())
            await session.flush()
            written.set()
            while True:
                await session.execute(text("SELECT 1"))

    task = asyncio.create_task(write_and_read())
    await written.wait()
    return task


async def test_statement_cancelled_at_any_moment_releases_its_lock(
    databases: None,
) -> None:
    """Cancelling interrupts a cursor with unread rows. It must not interrupt the ROLLBACK too."""
    for steps in range(20):
        task = await start_writing_and_reading()
        for _ in range(steps):
            await asyncio.sleep(0)
        task.cancel()
        with pytest.raises(asyncio.CancelledError) as held:
            await task
        async with session_scope() as session:
            session.add(new_user())

        assert held.value
        assert await stored_users() == steps + 1
