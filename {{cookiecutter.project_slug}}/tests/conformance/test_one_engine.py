"""One engine per URL, read-only flag and event loop, until it is disposed of."""

import asyncio
import gc
import os
import subprocess
import sys
import threading
import weakref
from collections.abc import AsyncGenerator
from contextlib import AsyncExitStack
from pathlib import Path

import anyio
import pytest
from sqlalchemy import Connection, Engine, text
from sqlalchemy.exc import DBAPIError
from sqlalchemy.ext.asyncio import AsyncEngine

from app.core.config import DatabaseSettings, get_database, get_settings, variable
from app.core.db import dispose_engines, get_engine, session_scope
from tests.conformance.harness.proxy import Proxy
from tests.conformance.inspection import (
    CLOSE_TIMEOUT,
    engine_loops,
    probe_engine,
    session_factory,
)
from tests.inspection import checked_out, connections, nobody_is_connected, stored_users
from tests.support import collect_garbage, configure, new_user, set_databases, until


async def add_user() -> AsyncEngine:
    """Store a user and return the engine of the session."""
    async with session_scope() as session:
        session.add(new_user())
    return get_engine()


@pytest.mark.parametrize("other", ["postgres://u:p@h/d", "postgresql+asyncpg://u:p@h/d"])
async def test_equivalent_urls_share_an_engine(environment: pytest.MonkeyPatch, other: str) -> None:
    set_databases(environment, {"a": "postgresql://u:p@h/d", "b": other})

    assert get_engine("a") is get_engine("b")


async def test_explicit_driver_is_used(environment: pytest.MonkeyPatch, tmp_path: Path) -> None:
    set_databases(environment, {"a": f"sqlite+aiosqlite:///{tmp_path}/x.db"})

    async with session_scope("a") as session:
        assert await session.scalar(text("SELECT 1")) == 1
    assert get_engine("a").driver == "aiosqlite"
    await dispose_engines()


async def test_concurrent_first_sessions_of_tasks_make_one_engine(databases: None) -> None:
    engines: set[Engine | Connection] = set()

    async def use() -> None:
        async with session_scope() as session:
            await session.execute(text("SELECT 1"))
            engines.add(session.get_bind())

    async with asyncio.TaskGroup() as tasks:
        for _ in range(50):
            tasks.create_task(use())

    assert engines == {get_engine().sync_engine}


async def test_sessions_of_an_engine_share_one_factory(databases: None) -> None:
    assert session_factory() is session_factory("primary")


def test_concurrent_event_loops_have_an_engine_each(databases: None) -> None:
    engines: list[AsyncEngine] = []
    barrier = threading.Barrier(2, timeout=10)

    async def work() -> None:
        barrier.wait()
        for _ in range(20):
            engines.append(await add_user())
        barrier.wait()

    threads = [threading.Thread(target=lambda: asyncio.run(work())) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    assert len(set(engines)) == 2
    assert asyncio.run(stored_users()) == 40


def test_engines_of_a_closed_event_loop_are_removed(databases: None) -> None:
    async def make_an_engine() -> None:
        await add_user()
        await dispose_engines()
        get_engine()

    async def known_loops() -> set[object]:
        await add_user()
        return engine_loops()

    loops = [asyncio.new_event_loop() for _ in range(3)]
    for loop in loops:
        loop.run_until_complete(make_an_engine())
        loop.close()

    assert not {*loops} & asyncio.run(known_loops())


def test_script_that_does_not_dispose_of_engines_ends_without_warnings(tmp_path: Path) -> None:
    script = (
        "import asyncio\n"
        "from sqlalchemy import Connection, Engine, text\n"
        "from app.core.db import session_scope\n"
        "async def job():\n"
        "    async with session_scope() as session:\n"
        "        await session.execute(text('SELECT 1'))\n"
        "asyncio.run(job())\n"
        "asyncio.run(job())\n"
    )
    environment = {
        "DATABASE_URL": f"sqlite:///{tmp_path}/x.db",
        "PYTHONPATH": str(Path(__file__).parents[2]),
    }
    ended = subprocess.run(
        [sys.executable, "-W", "error", "-c", script],  # shows warnings of leaked resources
        capture_output=True,
        check=False,
        cwd=tmp_path,
        env=environment,
        text=True,
        timeout=60,  # if it hangs
    )

    assert (0, "") == (ended.returncode, ended.stderr)


@pytest.fixture
def other(databases: None, new_database: str) -> DatabaseSettings:
    """Settings of another database, which is not in the environment and has no tables."""
    return get_database().for_url(new_database, name="other")


async def engines_of(database: DatabaseSettings | None) -> list[AsyncEngine]:
    """Use all engines of a database, and return those of sessions."""
    for read_only in (False, True):
        async with session_scope(database, read_only=read_only) as session:
            await session.execute(text("SELECT 1"))
    async with probe_engine(database or get_database()).connect() as connection:
        await connection.execute(text("SELECT 1"))
    return [get_engine(database), get_engine(database, read_only=True)]


async def test_dispose_of_one_database_keeps_the_engines_of_others(other: DatabaseSettings) -> None:
    before, kept = await engines_of(other), await engines_of(None)
    pools = [engine.pool for engine in before]

    async def only_three_are_open() -> bool:
        return await connections() == 3

    await dispose_engines(other)
    await dispose_engines(other)

    assert [engine.pool.checkedin() for engine in kept] == [1, 1]  # type: ignore[attr-defined]
    assert [get_engine(), get_engine(read_only=True)] == kept
    assert [pool.checkedin() for pool in pools] == [0, 0]  # type: ignore[attr-defined]
    await until(only_three_are_open)
    assert not {*before} & {*await engines_of(other)}  # the next session makes new engines


async def test_dispose_by_name_closes_the_engine_that_another_name_shares(
    databases: None, environment: pytest.MonkeyPatch
) -> None:
    environment.setenv("DATABASES__TWIN__DATABASE_URL", os.environ[variable("primary")])
    get_settings.cache_clear()
    await add_user()
    before = get_engine("twin")
    async with session_scope("twin") as session:
        session.add(new_user())
        await session.flush()
        await dispose_engines("primary")

    await until(nobody_is_connected)
    assert before is not get_engine("twin") is get_engine()
    assert await stored_users() == 2


async def test_session_that_connects_after_dispose_leaks_no_connection(
    databases: None,
) -> None:
    async with session_scope() as session:
        await dispose_engines("primary")
        session.add(new_user())

    await until(nobody_is_connected)
    assert await stored_users() == 1


@pytest.mark.parametrize("steps", [1, 2, 4])
async def test_cancelled_dispose_closes_all_connections(databases: None, steps: int) -> None:
    """A request may dispose of an engine, and its client may disconnect."""
    async with session_scope() as one, session_scope() as other:
        for session in (one, other):
            await session.execute(text("SELECT 1"))
    closing = asyncio.create_task(dispose_engines("primary"))
    for _ in range(steps):
        await asyncio.sleep(0)
    closing.cancel()
    await asyncio.wait([closing])

    assert closing.cancelled()
    await until(nobody_is_connected)


@pytest.mark.postgresql
async def test_dispose_ends_on_a_silent_network(
    databases: None, environment: pytest.MonkeyPatch
) -> None:
    """All connections together have the time of one, which is longer than that of the test."""
    configure(environment, tcp_keepalive=0)
    environment.setattr(CLOSE_TIMEOUT, 1.0)
    async with Proxy(os.environ[variable("primary")]) as proxy, AsyncExitStack() as stack:
        set_databases(environment, {"primary": proxy.url})
        for read_only in [False, True] * 20:
            session = await stack.enter_async_context(session_scope(read_only=read_only))
            await session.execute(text("SELECT 1"))
        await stack.aclose()
        proxy.cut()

        async with asyncio.timeout(30):
            await dispose_engines()


async def test_dispose_releases_settings_engines_and_pools(
    databases: None, new_database: str
) -> None:
    async def use() -> list[weakref.ref[object]]:
        settings = get_database().for_url(new_database)
        engines = await engines_of(settings)
        await dispose_engines(settings)
        objects = (settings, *engines, *(engine.pool for engine in engines))
        return [weakref.ref(it) for it in objects]

    await add_user()
    references = await use()
    gc.collect()

    assert [reference() for reference in references] == [None] * 5


@pytest.fixture
async def notes_in_memory(environment: pytest.MonkeyPatch) -> AsyncGenerator[None, None]:
    """An in-memory database with one table."""
    environment.setenv("DATABASE_URL", "sqlite://")
    async with session_scope() as session:
        await session.execute(text("CREATE TABLE notes (id INTEGER)"))
    yield
    assert not checked_out()
    await dispose_engines()


@pytest.mark.sqlite
async def test_sessions_of_an_in_memory_database_wait_for_each_other(
    notes_in_memory: None,
) -> None:
    async def write(number: int) -> None:
        async with session_scope() as session:
            await session.execute(text("INSERT INTO notes VALUES (:n)"), {"n": number})
            if number % 2:
                await session.rollback()

    async with asyncio.TaskGroup() as tasks:
        for number in range(10):
            tasks.create_task(write(number))

    async with session_scope() as session:
        assert await session.scalar(text("SELECT count(*) FROM notes")) == 5


@pytest.mark.sqlite
async def test_read_only_session_reads_the_same_in_memory_database(notes_in_memory: None) -> None:
    for number in range(3):
        async with session_scope(read_only=True) as session:
            assert await session.scalar(text("SELECT count(*) FROM notes")) == number
        with pytest.raises(DBAPIError, match="readonly"):
            async with session_scope(read_only=True) as session:
                await session.execute(text("INSERT INTO notes VALUES (1)"))
        async with session_scope() as session:
            await session.execute(text("INSERT INTO notes VALUES (1)"))


@pytest.mark.sqlite
async def test_in_memory_database_survives_an_anyio_cancellation(notes_in_memory: None) -> None:
    async def cancel(scope: anyio.CancelScope, steps: int) -> None:
        for _ in range(steps):
            await asyncio.sleep(0)
        scope.cancel()

    for steps in range(60):
        with anyio.CancelScope() as scope:
            cancelling = asyncio.create_task(cancel(scope, steps))
            async with session_scope() as session:
                await session.execute(text("SELECT * FROM notes"))
        await cancelling
        async with session_scope() as session:
            await session.execute(text("SELECT * FROM notes"))


@pytest.mark.sqlite
async def test_read_of_an_in_memory_database_may_be_cancelled(notes_in_memory: None) -> None:
    async def read() -> None:
        async with session_scope(read_only=True) as session:
            await session.execute(text("SELECT * FROM notes"))

    for steps in range(40):
        task = asyncio.create_task(read())
        for _ in range(steps):
            await asyncio.sleep(0)
        await asyncio.sleep(steps % 4 * 0.0002)
        task.cancel()
        await asyncio.wait([task])
        assert not checked_out()

    async with session_scope() as session:
        await session.execute(text("INSERT INTO notes VALUES (1)"))


async def test_settings_with_a_replica_that_are_created_for_each_request_are_not_kept(
    environment: pytest.MonkeyPatch,
) -> None:
    engines = set()
    created: list[weakref.ref[DatabaseSettings]] = []
    for _ in range(500):
        settings = get_database().for_url("postgresql://h/d", read_database_url="postgresql://r/d")
        async with session_scope(settings), session_scope(settings, read_only=True):
            engines |= {get_engine(settings), get_engine(settings, read_only=True)}
        created.append(weakref.ref(settings))
    del settings
    collect_garbage()
    await dispose_engines()

    assert len(engines) == 2
    assert sum(settings() is not None for settings in created) <= 1
