"""Every exception rolls back and is raised unchanged, cancellation included."""

import asyncio

import pytest
from sqlalchemy import text

from app.core.db import session_scope
from tests.inspection import checked_out, kill, nobody_is_connected, pid, stored_users
from tests.support import new_user, until


@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt, SystemExit, GeneratorExit])
async def test_scope_rolls_back_on_any_exception_and_raises_it_unchanged(
    databases: None, error: type[BaseException]
) -> None:
    raised = error("mine")

    with pytest.raises(error) as caught:
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


async def test_scope_rolls_back_when_its_task_is_cancelled(databases: None) -> None:
    written = asyncio.Event()

    async def write_and_wait() -> None:
        async with session_scope() as session:
            session.add(new_user())
            await session.flush()
            written.set()
            await asyncio.Event().wait()

    task = asyncio.create_task(write_and_wait())
    await written.wait()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task

    assert await stored_users() == 0


async def test_scope_that_is_cancelled_repeatedly_leaks_nothing(
    databases: None,
) -> None:
    """AnyIO cancels again until its scope has ended, for example in a streaming response."""
    tasks = len(asyncio.all_tasks())
    for _ in range(20):
        task = await start_writing_and_reading()
        while not task.done():
            task.cancel()
            await asyncio.sleep(0)

    await until(lambda: len(asyncio.all_tasks()) == tasks)
    await until(lambda: not checked_out())
    assert await stored_users() == 0


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


@pytest.mark.postgresql
async def test_error_is_raised_unchanged_if_the_connection_is_dead(
    single_connection: None, caplog: pytest.LogCaptureFixture
) -> None:
    raised = KeyError("mine")

    with pytest.raises(KeyError) as caught:
        async with session_scope() as session:
            session.add(new_user())
            await session.flush()
            await kill(await pid(session))
            raise raised

    assert caught.value is raised
    assert "A session could not roll back; its connection is dropped." in caplog.messages
    await until(nobody_is_connected)
    async with session_scope() as session:
        session.add(new_user())
    assert await stored_users() == 1
