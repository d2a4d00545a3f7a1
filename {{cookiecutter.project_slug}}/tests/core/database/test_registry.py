"""One engine for each URL, use and event loop, until it is disposed of."""

import asyncio
import logging
import os
import sys
import threading
from concurrent.futures import ThreadPoolExecutor

import pytest
from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncEngine

from app.core.config import DatabaseSettings, get_database, variable
from app.core.db import dispose_engines, get_engine, session_scope
from tests.inspection import connections, nobody_is_connected, stored_users
from tests.support import new_user, set_databases, until


async def use(*databases: str | DatabaseSettings | None) -> list[AsyncEngine]:
    """Use a session of each database at the same time; return their engines."""
    for database in databases:
        async with session_scope(database) as session:
            await session.execute(text("SELECT 1"))
    return [get_engine(database) for database in databases]


@pytest.fixture
def other(databases: None, new_database: str) -> DatabaseSettings:
    """Settings of another database, which has no tables."""
    return get_database().for_url(new_database)


async def test_names_of_one_url_share_an_engine(
    databases: None, environment: pytest.MonkeyPatch
) -> None:
    set_databases(environment, {"twin": os.environ[variable("primary")]})
    same = get_database().for_url(get_database().url())

    assert get_engine() is get_engine("primary") is get_engine("twin") is get_engine(same)
    assert get_engine(read_only=True) is get_engine("twin", read_only=True)
    assert get_engine() is not get_engine(read_only=True)


async def test_urls_that_differ_only_in_the_password_have_different_engines(
    environment: pytest.MonkeyPatch,
) -> None:
    set_databases(environment, {"a": "postgresql://u:one@h/d", "b": "postgresql://u:two@h/d"})

    assert get_engine("a") is not get_engine("b")
    assert get_engine("b").url.password == "two"
    await dispose_engines()


def test_threads_that_ask_for_the_first_engine_get_the_same(
    environment: pytest.MonkeyPatch,
) -> None:
    names = [f"twin{number}" for number in range(20)]
    set_databases(environment, {name: f"sqlite:///{name}.db" for name in names})
    together = threading.Barrier(8)

    def ask(name: str) -> AsyncEngine:
        together.wait()
        return get_engine(name)

    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)  # seconds: switch between threads as often as possible
    with ThreadPoolExecutor(8) as threads:
        engines = [{*threads.map(ask, [name] * 8)} for name in names]
    sys.setswitchinterval(interval)
    asyncio.run(dispose_engines())

    assert [len(found) for found in engines] == [1] * 20


def test_each_event_loop_has_an_engine_of_its_own_that_ends_with_it(databases: None) -> None:
    """As in a script that calls asyncio.run() twice and disposes of nothing."""

    async def write() -> AsyncEngine:
        async with session_scope() as session:
            session.add(new_user())
        return get_engine()

    first, second = asyncio.run(write()), asyncio.run(write())

    assert first is not second
    assert asyncio.run(stored_users()) == 2
    asyncio.run(until(nobody_is_connected))


async def test_session_ends_as_usual_after_its_engine_was_disposed_of(databases: None) -> None:
    async with session_scope() as session:
        session.add(new_user())
        await session.flush()
        before = get_engine()
        await dispose_engines()
        await dispose_engines()

        assert await connections() == 1
    await until(nobody_is_connected)

    assert await stored_users() == 1
    assert get_engine() is not before
    await use(None)


async def test_dispose_of_one_database_leaves_the_others(other: DatabaseSettings) -> None:
    mine, before = await use(None, other)
    pool = before.pool

    await dispose_engines(other)

    assert get_engine() is mine
    assert [mine.pool.checkedin(), pool.checkedin()] == [1, 0]  # type: ignore[attr-defined]
    assert await use(other) != [before]  # it can be used again


@pytest.mark.parametrize("steps", [1, 2])
async def test_dispose_that_is_cancelled_still_closes_every_connection(
    databases: None, steps: int
) -> None:
    async with session_scope() as one, session_scope() as other:
        for session in (one, other):
            await session.execute(text("SELECT 1"))
    closing = asyncio.create_task(dispose_engines("primary"))
    for _ in range(steps):
        await asyncio.sleep(0)
    closing.cancel()
    await asyncio.wait([closing])

    await until(nobody_is_connected)


async def test_settings_that_an_existing_engine_does_not_have_are_logged(
    environment: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    url = "postgresql://user:hidden@host/database"
    engine = get_engine(get_database().for_url(url))
    larger = get_database().pool_size + 1

    assert get_engine(get_database().for_url(url, pool_size=larger)) is engine

    [record] = [record for record in caplog.records if record.levelno == logging.WARNING]
    assert "POOL_SIZE" in record.getMessage()
    assert "hidden" not in caplog.text
    await dispose_engines()
