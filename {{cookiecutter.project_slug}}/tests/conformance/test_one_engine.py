"""One engine for each URL in each event loop, until it is disposed of."""

import asyncio
import gc
import os
import subprocess
import sys
import threading
import weakref
from collections.abc import AsyncGenerator, Iterator
from pathlib import Path

import pytest
from sqlalchemy import Connection, Engine, text
from sqlalchemy.exc import DBAPIError
from sqlalchemy.ext.asyncio import AsyncEngine

from app.core.config import DatabaseSettings, get_database, get_settings, variable
from app.core.database.registry import _closers, _databases, find_database, find_probe, live_pools
from app.core.db import dispose_engines, get_engine, session_scope
from tests.inspection import checked_out, connections, nobody_is_connected, stored_users
from tests.support import new_user, set_databases, until


async def add_user() -> AsyncEngine:
    """Use a session, and return its engine."""
    async with session_scope() as session:
        session.add(new_user())
    return get_engine()


async def test_one_engine_for_a_url_whatever_its_names(
    databases: None, environment: pytest.MonkeyPatch
) -> None:
    environment.setenv("DATABASES__TWIN__DATABASE_URL", os.environ[variable("primary")])
    get_settings.cache_clear()

    assert get_engine() is get_engine("primary") is get_engine("twin")
    assert get_engine() is not get_engine(read_only=True)


async def test_engines_of_urls_that_differ_in_the_password_only_are_two(
    environment: pytest.MonkeyPatch,
) -> None:
    set_databases(environment, {"a": "postgresql://u:one@h/d", "b": "postgresql://u:two@h/d"})

    assert get_engine("a") is not get_engine("b")


@pytest.mark.parametrize("other", ["postgres://u:p@h/d", "postgresql+asyncpg://u:p@h/d"])
async def test_one_engine_for_two_spellings_of_a_url(
    environment: pytest.MonkeyPatch, other: str
) -> None:
    set_databases(environment, {"a": "postgresql://u:p@h/d", "b": other})

    assert get_engine("a") is get_engine("b")


async def test_driver_that_is_named_is_used(
    environment: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    set_databases(environment, {"a": f"sqlite+aiosqlite:///{tmp_path}/x.db"})

    async with session_scope("a") as session:
        assert await session.scalar(text("SELECT 1")) == 1
    assert get_engine("a").driver == "aiosqlite"
    await dispose_engines()


async def test_first_sessions_of_many_tasks_share_one_engine(databases: None) -> None:
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
    factories = {
        find_database(get_database(name), dev=False, read_only=False).sessions
        for name in (None, "primary")
    }

    assert len(factories) == 1


@pytest.fixture
def impatient_threads() -> Iterator[None]:
    """Threads that leave each other no time to finish anything by luck."""
    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    yield
    sys.setswitchinterval(interval)


def test_first_engines_of_many_threads_are_one(
    databases: None, environment: pytest.MonkeyPatch, impatient_threads: None
) -> None:
    names = [f"twin{number}" for number in range(20)]
    set_databases(environment, {name: f"sqlite:///{name}.db" for name in names})
    engines: dict[str, list[AsyncEngine]] = {name: [] for name in names}
    together = threading.Barrier(8)

    def use() -> None:
        for name in names:
            together.wait()
            engines[name].append(get_engine(name))

    threads = [threading.Thread(target=use) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    assert [8] * 20 == [len(made) for made in engines.values()]
    assert [1] * 20 == [len(set(made)) for made in engines.values()]


def test_event_loops_one_after_the_other_get_an_engine_each_and_work(databases: None) -> None:
    first, second = asyncio.run(add_user()), asyncio.run(add_user())

    assert first is not second
    assert asyncio.run(stored_users()) == 2


def test_event_loops_of_threads_get_an_engine_each_and_work(databases: None) -> None:
    engines: list[AsyncEngine] = []
    together = threading.Barrier(2, timeout=10)

    async def work() -> None:
        together.wait()
        for _ in range(20):
            engines.append(await add_user())
        together.wait()

    threads = [threading.Thread(target=lambda: asyncio.run(work())) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    assert len(set(engines)) == 2
    assert asyncio.run(stored_users()) == 40


def test_loop_that_was_closed_by_hand_is_forgotten(databases: None) -> None:
    async def leave_an_engine() -> None:
        await add_user()
        await dispose_engines()
        get_engine()

    async def known_loops() -> set[object]:
        await add_user()
        return {*_databases, *_closers}

    loops = [asyncio.new_event_loop() for _ in range(3)]
    for loop in loops:
        loop.run_until_complete(leave_an_engine())
        loop.close()

    assert not {*loops} & asyncio.run(known_loops())


def test_script_that_disposes_of_nothing_leaves_no_connection_and_ends(tmp_path: Path) -> None:
    code = (
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
        [sys.executable, "-X", "dev", "-W", "error", "-c", code],
        capture_output=True,
        check=False,
        cwd=tmp_path,
        env=environment,
        text=True,
        timeout=60,
    )

    assert (ended.returncode, ended.stderr) == (0, "")


async def test_dispose_closes_the_engine_and_the_next_session_makes_another(
    databases: None,
) -> None:
    await add_user()
    before = get_engine()
    assert await connections() == 1

    await dispose_engines()
    await dispose_engines()

    await until(nobody_is_connected)
    await add_user()
    assert get_engine() is not before
    assert await stored_users() == 2


async def test_session_that_outlives_its_engine_ends_well(databases: None) -> None:
    async with session_scope() as session:
        session.add(new_user())
        await session.flush()
        await dispose_engines()

        assert await connections() == 1

    await until(nobody_is_connected)
    assert await stored_users() == 1


async def test_database_without_a_name_has_one_engine_and_the_same_life_of_a_session(
    databases: None,
) -> None:
    settings = get_database().for_url(get_database().url())
    with pytest.raises(ZeroDivisionError):
        async with session_scope(settings) as session:
            session.add(new_user())
            await session.flush()
            raise ZeroDivisionError
    async with session_scope(settings) as session:
        session.add(new_user())

    assert get_engine(settings) is get_engine()  # it is one for each URL, whoever asks
    assert get_engine(settings, read_only=True) is get_engine(read_only=True)
    assert await stored_users() == 1


@pytest.fixture
def other(databases: None, new_database: str) -> DatabaseSettings:
    """Another database, which has no name and no tables."""
    return get_database().for_url(new_database, name="other")


async def engines_of(database: DatabaseSettings | None) -> list[AsyncEngine]:
    """Use every engine that a database has, and return them."""
    for read_only in (False, True):
        async with session_scope(database, read_only=read_only) as session:
            await session.execute(text("SELECT 1"))
    async with find_probe(database or get_database()).connect() as connection:
        await connection.execute(text("SELECT 1"))
    return [get_engine(database), get_engine(database, read_only=True)]


async def test_dispose_of_one_database_leaves_the_others(other: DatabaseSettings) -> None:
    before, mine = await engines_of(other), await engines_of(None)
    pools = [engine.pool for engine in before]

    async def only_mine() -> bool:
        return await connections() == 3

    await dispose_engines(other)
    await dispose_engines(other)

    assert [engine.pool.checkedin() for engine in mine] == [1, 1]  # type: ignore[attr-defined]
    assert [get_engine(), get_engine(read_only=True)] == mine
    assert [pool.checkedin() for pool in pools] == [0, 0]  # type: ignore[attr-defined]
    await until(only_mine)
    assert not {*before} & {*await engines_of(other)}  # it may be asked for again


async def test_dispose_by_name_closes_what_another_name_shares(
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


async def test_session_that_connects_when_its_engine_is_disposed_of_leaves_no_connection(
    databases: None,
) -> None:
    async with session_scope() as session:
        await dispose_engines("primary")
        session.add(new_user())

    await until(nobody_is_connected)
    assert await stored_users() == 1


@pytest.mark.parametrize("steps", [1, 2, 4])
async def test_dispose_that_is_cancelled_closes_everything_all_the_same(
    databases: None, steps: int
) -> None:
    """As in a request that closes what is used least, and whose client leaves."""
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


async def test_dispose_leaves_nothing_of_settings_and_pool(
    databases: None, new_database: str
) -> None:
    async def use() -> list[weakref.ref[object]]:
        settings = get_database().for_url(new_database)
        engines = await engines_of(settings)
        await dispose_engines(settings)
        return [weakref.ref(it) for it in (settings, *engines, *(e.pool for e in engines))]

    await add_user()
    gone = await use()
    gc.collect()

    assert [it() for it in gone] == [None] * 5


async def test_settings_that_are_made_for_each_session_are_not_kept(
    databases: None, new_database: str
) -> None:
    made = []
    for _ in range(10):
        settings = get_database().for_url(new_database)
        made.append(weakref.ref(settings))
        get_engine(settings)
        get_engine(settings, read_only=True)
    del settings
    gc.collect()

    assert sum(ref() is not None for ref in made) == 1
    assert len(live_pools()) == 2


@pytest.fixture
async def notes_in_memory(environment: pytest.MonkeyPatch) -> AsyncGenerator[None, None]:
    """A database in memory with one table."""
    environment.setenv("DATABASE_URL", "sqlite://")
    async with session_scope() as session:
        await session.execute(text("CREATE TABLE notes (id INTEGER)"))
    yield
    assert not checked_out()
    await dispose_engines()


@pytest.mark.sqlite
async def test_database_in_memory_lasts_as_long_as_its_engine(notes_in_memory: None) -> None:
    async with session_scope() as session:
        await session.execute(text("SELECT * FROM notes"))


@pytest.mark.sqlite
async def test_database_in_memory_survives_a_statement_that_is_cancelled(
    notes_in_memory: None,
) -> None:
    async def read() -> None:
        async with session_scope() as session:
            await session.execute(text("INSERT INTO notes VALUES (1)"))
            while True:
                await session.execute(text("SELECT * FROM notes"))

    for steps in range(20):
        task = asyncio.create_task(read())
        for _ in range(steps):
            await asyncio.sleep(0.0005)
        task.cancel()
        await asyncio.wait([task])

    async with session_scope() as session:
        assert await session.scalar(text("SELECT count(*) FROM notes")) == 0


@pytest.mark.sqlite
async def test_sessions_on_a_database_in_memory_wait_for_each_other(
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
async def test_read_only_session_reads_the_same_database_in_memory(notes_in_memory: None) -> None:
    for number in range(3):
        async with session_scope(read_only=True) as session:
            assert await session.scalar(text("SELECT count(*) FROM notes")) == number
        with pytest.raises(DBAPIError, match="readonly"):
            async with session_scope(read_only=True) as session:
                await session.execute(text("INSERT INTO notes VALUES (1)"))
        async with session_scope() as session:
            await session.execute(text("INSERT INTO notes VALUES (1)"))


@pytest.mark.sqlite
async def test_reading_of_a_database_in_memory_may_be_cancelled(notes_in_memory: None) -> None:
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
