"""The promises of core/db.py that concern one database. What HTTP adds is in test_requests.py."""

import asyncio
import os
import subprocess
import sys
import threading
from collections.abc import AsyncGenerator
from pathlib import Path

import anyio
import pytest
from sqlalchemy import func, select, text
from sqlalchemy.exc import DBAPIError, IntegrityError, InvalidRequestError, OperationalError
from sqlalchemy.exc import TimeoutError as PoolTimeoutError
from sqlalchemy.ext.asyncio import AsyncEngine, AsyncSession

from app.core.config import get_settings, variable
from app.core.db import dispose_engines, get_engine, get_session, session_scope
from app.core.errors import ConfigurationError, DatabaseNotFoundError, TransactionFailedError
from app.core.registry import _closers, _databases
from app.models import User
from tests.support import (
    connections,
    lose_transaction,
    new_user,
    nobody_is_connected,
    until,
    violate_at_commit,
)


async def count_users() -> int:
    async with session_scope() as session:
        return await session.scalar(select(func.count(User.id))) or 0


# Dependencies


def test_same_arguments_give_the_same_dependency() -> None:
    assert get_session() is get_session(None) is get_session("primary")
    assert get_session(dev=True) is get_session("primary", dev=True)


def test_other_arguments_give_another_dependency() -> None:
    dependencies = {
        get_session(),
        get_session("x"),
        get_session(dev=True),
        get_session("x", dev=True),
    }
    dependencies |= {get_session(read_only=True), get_session("x", read_only=True)}

    assert len(dependencies) == 6


async def test_dependency_is_a_generator_of_one_session(databases: None) -> None:
    generator = get_session()()
    session = await anext(generator)
    session.add(new_user())
    with pytest.raises(StopAsyncIteration):
        await anext(generator)

    assert await count_users() == 1


# Success and failure


async def test_scope_commits_when_its_block_ends_well(databases: None) -> None:
    async with session_scope() as session:
        session.add(new_user())

    assert await count_users() == 1


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
    assert await count_users() == 0


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

    assert await count_users() == 0


async def test_statement_that_is_cancelled_leaves_no_lock(databases: None) -> None:
    """It did, for as long as somebody held the traceback: it kept the cursor, and that the lock."""
    long = text(
        "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 60000000) "
        "SELECT count(*) FROM n"
    )

    async def write_and_count() -> None:
        async with session_scope() as session:
            session.add(new_user())
            await session.flush()
            await session.execute(long)

    with pytest.raises(TimeoutError) as held:
        await asyncio.wait_for(write_and_count(), timeout=0.2)
    async with session_scope() as session:
        session.add(new_user())

    assert held.value.__cause__ is not None
    assert await count_users() == 1


async def test_session_that_a_task_still_uses_gives_its_connection_back(
    databases: None,
) -> None:
    async def fail() -> None:
        raise LookupError

    with pytest.raises(LookupError):
        async with session_scope() as session:
            session.add(new_user())
            await session.flush()
            await asyncio.gather(session.execute(text("SELECT 1")), fail())

    assert await count_users() == 0


@pytest.mark.parametrize("steps", range(6))
async def test_session_that_a_task_is_opening_leaks_no_connection(
    databases: None, steps: int
) -> None:
    async def write(session: AsyncSession) -> None:
        session.add(new_user())
        await session.flush()

    with pytest.raises(LookupError):
        async with session_scope() as session:
            task = asyncio.create_task(write(session))
            for _ in range(steps):
                await asyncio.sleep(0)
            raise LookupError
    await asyncio.gather(task, return_exceptions=True)

    assert get_engine().pool.checkedout() == 0  # type: ignore[attr-defined]
    assert await count_users() == 0


async def test_scope_rolls_back_when_anyio_cancels_it(databases: None) -> None:
    with anyio.CancelScope() as scope:
        async with session_scope() as session:
            session.add(new_user())
            await session.flush()
            scope.cancel()
            await anyio.sleep_forever()

    assert await count_users() == 0


async def test_commit_that_fails_raises_and_stores_nothing(databases: None) -> None:
    with pytest.raises(IntegrityError):
        async with session_scope() as session:
            session.add(new_user())
            await violate_at_commit(session)

    assert await count_users() == 0


async def test_session_is_usable_after_a_commit_that_failed(databases: None) -> None:
    async with session_scope() as session:
        session.add(new_user())
        await violate_at_commit(session)
        with pytest.raises(IntegrityError):
            await session.commit()
        await session.rollback()
        session.add(new_user())

    assert await count_users() == 1


# Sessions


async def test_attributes_stay_readable_after_the_commit(databases: None) -> None:
    async with session_scope() as session:
        ada = new_user()
        session.add(ada)

    assert (ada.name, ada.version) == ("Ada", 1)


async def test_session_that_has_ended_refuses_to_be_used(databases: None) -> None:
    async with session_scope() as session:
        await session.execute(text("SELECT 1"))

    with pytest.raises(InvalidRequestError, match="permanently closed"):
        await session.execute(text("SELECT 1"))


async def test_route_may_commit_roll_back_and_refresh_by_itself(databases: None) -> None:
    async with session_scope() as session:
        ada = new_user()
        session.add(ada)
        await session.commit()
        await session.refresh(ada)
        session.add(new_user())
        await session.rollback()
        session.add(new_user())

    assert await count_users() == 2


async def test_what_was_committed_by_hand_survives_a_later_failure(databases: None) -> None:
    with pytest.raises(ValueError, match="later"):
        async with session_scope() as session:
            session.add(new_user())
            await session.commit()
            session.add(new_user())
            await session.flush()
            raise ValueError("later")

    assert await count_users() == 1


async def test_savepoint_that_fails_takes_only_its_own_writes_along(databases: None) -> None:
    async with session_scope() as session:
        ada = new_user()
        session.add(ada)
        await session.flush()
        with pytest.raises(IntegrityError):
            async with session.begin_nested():
                session.add(User(name="Twin", email=ada.email))
        session.add(new_user())

    assert await count_users() == 2


async def test_rollback_takes_along_what_a_released_savepoint_wrote(databases: None) -> None:
    async with session_scope() as session:
        async with session.begin_nested():
            session.add(new_user())
        await session.rollback()

    assert await count_users() == 0


async def test_transaction_that_the_database_has_given_up_is_not_committed(
    databases: None,
) -> None:
    with pytest.raises(TransactionFailedError, match="swallowed"):
        async with session_scope() as session:
            await lose_transaction(session)

    assert await count_users() == 0


async def test_statement_after_the_end_of_a_transaction_is_refused(databases: None) -> None:
    async with session_scope() as session:
        await lose_transaction(session)
        with pytest.raises((TransactionFailedError, DBAPIError), match=r"swallowed|is aborted"):
            await session.execute(text("CREATE TABLE stray (id INTEGER)"))
        await session.rollback()
        session.add(new_user())

    assert await count_users() == 1
    with pytest.raises(DBAPIError, match="stray"):
        async with session_scope() as session:
            await session.execute(text("SELECT * FROM stray"))


@pytest.mark.sqlite
async def test_error_that_harms_no_transaction_may_be_swallowed(databases: None) -> None:
    async with session_scope() as session:
        session.add(new_user())
        await session.flush()
        with pytest.raises(OperationalError):
            await session.execute(text("SELECT * FROM nowhere"))

    assert await count_users() == 1


async def test_each_scope_has_a_transaction_of_its_own(databases: None) -> None:
    async with session_scope() as writing:
        writing.add(new_user())
        await writing.flush()

        assert await count_users() == 0

    assert await count_users() == 1


async def test_read_only_session_is_refused_a_write_by_the_database(databases: None) -> None:
    with pytest.raises(DBAPIError, match=r"readonly|read-only"):
        async with session_scope(read_only=True) as session:
            session.add(new_user())

    assert await count_users() == 0


# Engines


def test_import_and_aliases_open_nothing_and_read_no_environment(tmp_path: Path) -> None:
    code = (
        "import app.main, app.dependencies\n"
        "from app.core.config import get_settings\n"
        "from app.core.db import get_session\n"
        "from app.core.registry import _databases\n"
        "get_session('nowhere', dev=True)\n"
        "assert not _databases\n"
        "assert not get_settings.cache_info().currsize\n"
    )
    # No such environment exists: whoever reads it fails.
    environment = {"ENVIRONMENT": "nowhere", "PYTHONPATH": str(Path(__file__).parents[2])}
    subprocess.run([sys.executable, "-c", code], check=True, cwd=tmp_path, env=environment)

    assert not list(tmp_path.iterdir())


async def test_environment_counts_until_the_first_use(
    environment: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    dependency = get_session()
    environment.setenv("DATABASE_URL", f"sqlite:///{tmp_path}/late.db")

    await anext(dependency())

    assert get_engine().url.database == f"{tmp_path}/late.db"
    await dispose_engines()


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
    environment.setenv("DATABASES__A__DATABASE_URL", "postgresql://u:one@h/d")
    environment.setenv("DATABASES__B__DATABASE_URL", "postgresql://u:two@h/d")

    assert get_engine("a") is not get_engine("b")


async def test_first_sessions_of_many_tasks_share_one_engine(databases: None) -> None:
    engines: set[AsyncEngine] = set()

    async def use() -> None:
        async with session_scope() as session:
            await session.execute(text("SELECT 1"))
            engines.add(get_engine())

    async with asyncio.TaskGroup() as tasks:
        for _ in range(50):
            tasks.create_task(use())

    assert len(engines) == 1


def test_first_engines_of_many_threads_are_one(databases: None) -> None:
    engines: list[AsyncEngine] = []
    together = threading.Barrier(8)

    def use() -> None:
        together.wait()
        engines.append(get_engine())

    threads = [threading.Thread(target=use) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    assert len(engines) == 8
    assert len(set(engines)) == 1


def test_every_event_loop_gets_an_engine_of_its_own_and_works(databases: None) -> None:
    def use() -> tuple[AsyncEngine, int]:
        async def count() -> tuple[AsyncEngine, int]:
            async with session_scope() as session:
                session.add(new_user())
            return get_engine(), await count_users()

        return asyncio.run(count())

    (first, one), (second, two) = use(), use()

    assert first is not second
    assert (one, two) == (1, 2)


def test_loop_that_was_closed_by_hand_is_forgotten(databases: None) -> None:
    loops = [asyncio.new_event_loop() for _ in range(3)]
    for loop in loops:
        loop.run_until_complete(count_users())
        loop.run_until_complete(dispose_engines())
        loop.close()

    async def known_loops() -> set[object]:
        await count_users()
        return {*_databases, *_closers}

    assert not {*loops} & asyncio.run(known_loops())


def test_script_that_disposes_of_nothing_leaves_no_connection_and_ends(tmp_path: Path) -> None:
    code = (
        "import asyncio\n"
        "from sqlalchemy import text\n"
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
    await count_users()
    before = get_engine()

    await dispose_engines()
    await dispose_engines()

    assert await count_users() == 0
    assert get_engine() is not before
    assert before.pool.checkedin() == 0  # type: ignore[attr-defined]


async def test_session_that_outlives_its_engine_ends_well(databases: None) -> None:
    async with session_scope() as session:
        session.add(new_user())
        await session.flush()
        await dispose_engines()

        assert await connections() == 1

    await until(nobody_is_connected)
    assert await count_users() == 1


async def test_dev_url_is_another_engine(
    databases: None, new_database: str, environment: pytest.MonkeyPatch
) -> None:
    environment.setenv("DEV_DATABASE_URL", new_database)
    get_settings.cache_clear()

    async with session_scope(dev=True) as session:
        await session.execute(text("CREATE TABLE only_in_dev (id INTEGER)"))
    with pytest.raises(DBAPIError, match="only_in_dev"):
        async with session_scope() as session:
            await session.execute(text("SELECT * FROM only_in_dev"))


async def test_dev_url_that_is_not_set_is_an_error_of_the_first_session(databases: None) -> None:
    dependency = get_session(dev=True)

    with pytest.raises(ConfigurationError, match="DEV_DATABASE_URL is not set"):
        await anext(dependency())


async def test_unknown_database_is_an_error_of_the_first_session(databases: None) -> None:
    dependency = get_session("nope")

    with pytest.raises(DatabaseNotFoundError, match="no database 'nope'; there are:"):
        await anext(dependency())


async def test_pool_that_is_exhausted_says_so_within_its_timeout(
    databases: None, environment: pytest.MonkeyPatch
) -> None:
    environment.setenv("DATABASES__PRIMARY__POOL_SIZE", "1")
    environment.setenv("DATABASES__PRIMARY__POOL_TIMEOUT", "0.1")
    get_settings.cache_clear()

    async with session_scope() as session:
        await session.execute(text("SELECT 1"))
        with pytest.raises(PoolTimeoutError):
            await count_users()

    assert await count_users() == 0


@pytest.fixture
async def notes_in_memory(environment: pytest.MonkeyPatch) -> AsyncGenerator[None, None]:
    """A database in memory with one table."""
    environment.setenv("DATABASE_URL", "sqlite://")
    async with session_scope() as session:
        await session.execute(text("CREATE TABLE notes (id INTEGER)"))
    yield
    assert get_engine().pool.checkedout() == 0  # type: ignore[attr-defined]
    await dispose_engines()


@pytest.mark.sqlite
async def test_database_in_memory_lasts_as_long_as_its_engine(notes_in_memory: None) -> None:
    async with session_scope() as session:
        await session.execute(text("SELECT * FROM notes"))


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


@pytest.mark.parametrize(
    "url",
    [
        "postgresql://u:hidden@127.0.0.1:1/d",  # nobody listens
        "postgresql://u:hidden@nowhere.invalid/d",  # cannot be resolved
        f"postgresql://u:hidden@{'x' * 64}.invalid/d",  # is no name
    ],
)
async def test_server_that_cannot_be_reached_is_an_operational_error(
    environment: pytest.MonkeyPatch, url: str
) -> None:
    environment.setenv("DATABASE_URL", url)

    with pytest.raises(OperationalError) as error:
        async with session_scope() as session:
            await session.execute(text("SELECT 1"))

    assert "hidden" not in str(error.value)
    assert get_engine().pool.checkedout() == 0  # type: ignore[attr-defined]


async def test_parameters_stay_out_of_error_messages(databases: None) -> None:
    with pytest.raises(IntegrityError) as error:
        async with session_scope() as session:
            session.add_all([User(name="Ada", email="ada@example.com") for _ in range(2)])

    assert "ada@example.com" not in str(error.value)
