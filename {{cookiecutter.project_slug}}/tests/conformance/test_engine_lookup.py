"""Engines are found in constant time, whatever their number, and closed side by side."""

import asyncio
import os
import pickle
import subprocess
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path
from types import FrameType
from typing import Annotated, cast

import pytest
from fastapi import Depends
from sqlalchemy import insert, text
from sqlalchemy.ext.asyncio import AsyncSession

from app.core.config import DatabaseSettings, get_database, get_settings, variable
from app.core.database.sync_session import TrackedSession
from app.core.db import (
    DatabaseNotFoundError,
    dispose_engines,
    get_engine,
    get_session,
    session_scope,
)
from app.main import create_app
from app.models import User
from tests.conformance.harness.proxy import Proxy
from tests.inspection import checked_out, nobody_is_connected, stored_users
from tests.support import new_user, until, user_values


def calls_of(function: Callable[[], object]) -> int:
    """Count the Python functions that run: a measure of work that no other process can change."""
    count = 0

    def profile(_: FrameType, event: str, __: object) -> None:
        nonlocal count
        count += event == "call"

    sys.setprofile(profile)
    try:
        function()
    finally:
        sys.setprofile(None)
    return count


def tenant(number: int) -> DatabaseSettings:
    return get_database().for_url(f"postgresql://u@h/tenant{number}")


async def test_first_use_of_a_tenant_costs_the_same_whatever_the_number_of_tenants(
    environment: pytest.MonkeyPatch,
) -> None:
    few = [calls_of(partial(get_engine, tenant(n))) for n in range(20)][-1]
    many = [calls_of(partial(get_engine, tenant(n))) for n in range(20, 320)][-1]
    await dispose_engines()

    assert many < 1.2 * few


async def test_settings_created_for_each_request_find_the_same_engine_at_the_same_cost(
    environment: pytest.MonkeyPatch,
) -> None:
    replica = "postgresql://u@h/replica"

    def use() -> object:
        settings = get_database().for_url("postgresql://u@h/d", read_database_url=replica)
        return get_engine(settings), get_engine(settings, read_only=True)

    engines = use()
    first = calls_of(use)
    for _ in range(200):
        assert use() == engines
    last = calls_of(use)
    await dispose_engines()

    assert last <= first


def test_settings_stay_equal_when_their_urls_are_used(environment: pytest.MonkeyPatch) -> None:
    one, other = tenant(1), tenant(1)
    one.key(read_only=True)

    assert one == other
    assert hash(one.key()) == hash(other.key())


@pytest.mark.postgresql
async def test_engines_are_disposed_of_side_by_side(databases: None, new_database: str) -> None:
    async with Proxy(new_database) as network:
        for settings in (get_database().for_url(network.url), get_database()):
            async with session_scope(settings) as session:
                await session.execute(text("SELECT 1"))
        network.cut()  # the first engine cannot close its connection
        disposing = asyncio.create_task(dispose_engines())

        await until(nobody_is_connected)

    await disposing


async def test_session_on_two_engines_commits_its_write(databases: None) -> None:
    async with session_scope(read_only=True) as session:
        await session.execute(
            insert(User).values(**user_values()),
            bind_arguments={"bind": get_engine().sync_engine},
        )
        await session.execute(text("SELECT 1"))

    assert await stored_users() == 1


async def test_session_on_two_engines_rolls_back_its_write(databases: None) -> None:
    reading = {"bind": get_engine(read_only=True).sync_engine}
    with pytest.raises(LookupError):
        async with session_scope() as session:
            session.add(new_user())
            await session.flush()
            await session.execute(text("SELECT 1"), bind_arguments=reading)
            raise LookupError

    assert not checked_out()
    assert await stored_users() == 0


async def test_settings_that_an_engine_does_not_have_are_logged_once(
    databases: None, environment: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    environment.setenv(variable("twin"), os.environ[variable("primary")])
    environment.setenv(variable("twin", "pool_size"), "3")
    get_settings.cache_clear()
    get_engine("primary")
    for _ in range(2):
        get_engine("twin")

    [record] = caplog.records
    assert record.getMessage().startswith(
        "POOL_SIZE of the database 'twin' is ignored: the engine for its URL was created for the "
        "database 'primary' with another value."
    )

    caplog.clear()
    await dispose_engines()  # as the message advises
    assert get_engine("twin").pool.size() == 3  # type: ignore[attr-defined]
    assert not caplog.records


async def test_misspelt_name_of_a_database_stops_the_start(databases: None) -> None:
    app = create_app()

    async def nested(
        session: Annotated[AsyncSession, Depends(get_session("analytcs"), scope="function")],
    ) -> None:
        """A dependency of a dependency."""

    @app.get("/misspelt", dependencies=[Depends(nested, scope="function")])
    async def route() -> None:
        """Use it."""

    outer = create_app()
    outer.mount("/inner", app)
    for misspelt in (app, outer):
        with pytest.raises(DatabaseNotFoundError, match="'analytcs'"):
            async with misspelt.router.lifespan_context(misspelt):
                pass

    correct = create_app()  # the routes of another application do not matter
    async with correct.router.lifespan_context(correct):
        pass


@pytest.mark.postgresql
async def test_rollback_on_a_server_that_hangs_ends_and_gives_back_the_connection(
    databases: None, environment: pytest.MonkeyPatch
) -> None:
    environment.setattr("app.core.database.session.ROLLBACK_TIMEOUT", 0.1)
    async with Proxy(os.environ[variable("primary")]) as network:
        settings = get_database().for_url(network.url)
        with pytest.raises(LookupError):
            async with session_scope(settings) as session:
                await session.execute(text("SELECT 1"))
                network.cut()
                raise LookupError

        assert not checked_out()


async def test_savepoints_do_not_add_up(databases: None) -> None:
    async with session_scope() as session:
        for _ in range(10):
            async with session.begin_nested():
                await session.execute(text("SELECT 1"))

        assert len(cast("TrackedSession", session.sync_session).connections) == 1


def test_fallbacks_to_two_databases_are_two_engines(environment: pytest.MonkeyPatch) -> None:
    replica = "postgresql://u@h/replica"
    engines = {
        get_engine(
            get_database().for_url(url, read_database_url=replica, read_fallback=True),
            read_only=True,
        )
        for url in ("postgresql://u@h/a", "postgresql://u@h/b")
    }

    assert len(engines) == 2


async def test_fallback_of_reads_is_no_setting_of_the_engine_for_writes(
    databases: None, environment: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    environment.setenv(variable("twin"), os.environ[variable("primary")])
    environment.setenv(variable("twin", "read_database_url"), "postgresql://u@h/replica")
    environment.setenv(variable("twin", "read_fallback"), "true")
    get_settings.cache_clear()

    assert get_engine("twin") is get_engine()
    assert not caplog.records


def test_pickled_settings_find_the_same_engine_in_another_process(
    environment: pytest.MonkeyPatch,
) -> None:
    settings = tenant(1)
    settings.key()
    code = (
        "import pickle, sys\n"
        "from app.core.database.settings import EngineKey\n"
        "settings = pickle.load(sys.stdin.buffer)\n"
        "assert settings.key() in {EngineKey(settings.url())}\n"
    )

    subprocess.run(
        [sys.executable, "-c", code],
        check=True,
        cwd=Path(__file__).parents[2],
        env={"PYTHONHASHSEED": "1"},
        input=pickle.dumps(settings),
    )


@pytest.mark.sqlite
async def test_disposed_sqlite_engines_leave_no_write_ahead_log(databases: None) -> None:
    folder = Path(str(get_database().url().database)).parent
    for _ in range(20):
        async with session_scope() as session:
            session.add(new_user())
        async with session_scope(read_only=True) as session:
            await session.execute(text("SELECT * FROM users"))
        await dispose_engines()

        assert not [*folder.glob("*-wal")]
