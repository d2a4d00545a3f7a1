"""SQLite: pragmas, transactions, cancelled statements, databases in memory."""

import asyncio
from collections.abc import AsyncGenerator

import pytest
from sqlalchemy import text
from sqlalchemy.exc import DBAPIError

from app.core.db import dispose_engines, session_scope
from tests.inspection import checked_out, driver, stored_users
from tests.support import new_user, until

pytestmark = pytest.mark.sqlite

PRAGMAS = {"foreign_keys": 1, "journal_mode": "wal", "busy_timeout": 5000, "query_only": 0}


@pytest.mark.parametrize(("pragma", "expected"), PRAGMAS.items())
async def test_connection_has_this_pragma(databases: None, pragma: str, expected: object) -> None:
    async with session_scope() as session:
        assert await session.scalar(text(f"PRAGMA {pragma}")) == expected


async def test_read_only_connection_refuses_writes(databases: None) -> None:
    async with session_scope(read_only=True) as session:
        assert await session.scalar(text("PRAGMA query_only")) == 1


async def test_cancelled_statement_stops_and_leaves_no_lock(databases: None) -> None:
    """Also while a caller keeps the traceback: it refers to the cursor, which holds the lock."""
    rows = 2_000_000
    counted: list[int] = []
    long = text(
        f"WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < {rows}) "
        "SELECT count(look(i)) FROM n"
    )

    async def write_and_count() -> None:
        async with session_scope() as session:
            await (await driver(session)).create_function("look", 1, counted.append)
            session.add(new_user())
            await session.flush()
            await session.execute(long)

    task = asyncio.create_task(write_and_count())
    await until(lambda: bool(counted))
    task.cancel()
    with pytest.raises(asyncio.CancelledError) as held:
        await task
    async with session_scope() as session:
        session.add(new_user())

    assert held.value
    assert len(counted) < rows
    assert await stored_users() == 1


@pytest.fixture
async def in_memory(environment: pytest.MonkeyPatch) -> AsyncGenerator[None, None]:
    """A database in memory with one table."""
    environment.setenv("DATABASE_URL", "sqlite://")
    async with session_scope() as session:
        await session.execute(text("CREATE TABLE notes (id INTEGER)"))
    yield
    assert not checked_out()
    await dispose_engines()


async def test_database_in_memory_outlives_a_session_that_is_cancelled(in_memory: None) -> None:
    async def write_and_read() -> None:
        async with session_scope() as session:
            await session.execute(text("INSERT INTO notes VALUES (1)"))
            while True:
                await session.execute(text("SELECT * FROM notes"))

    for steps in range(20):
        task = asyncio.create_task(write_and_read())
        for _ in range(5 * steps):
            await asyncio.sleep(0)
        task.cancel()
        await asyncio.wait([task])

    async with session_scope(read_only=True) as session:
        assert await session.scalar(text("SELECT count(*) FROM notes")) == 0
        with pytest.raises(DBAPIError, match="readonly"):
            await session.execute(text("DELETE FROM notes"))
