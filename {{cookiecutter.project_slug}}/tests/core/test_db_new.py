"""Sessions that are cancelled repeatedly or use two engines; settings and names that do not fit."""

import asyncio
import logging
import weakref

import anyio
import pytest
from fastapi import Depends
from sqlalchemy import text

from app.core.config import DatabaseSettings, get_database
from app.core.db import (
    DatabaseNotFoundError,
    dispose_engines,
    get_engine,
    get_session,
    session_scope,
)
from app.main import create_app
from tests.inspection import checked_out, kill, pid, stored_users, until_active
from tests.support import collect_garbage, new_user


@pytest.mark.postgresql
async def test_session_that_is_cancelled_twice_returns_a_connection_that_a_task_still_uses(
    single: None,
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


async def test_session_on_two_engines_commits_its_write(databases: None) -> None:
    reading = {"bind": get_engine(read_only=True).sync_engine}
    async with session_scope() as session:
        session.add(new_user())
        await session.flush()
        await session.execute(text("SELECT 1"), bind_arguments=reading)

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


async def test_settings_that_an_existing_engine_does_not_have_are_logged(
    environment: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    url = "postgresql://user:hidden@host/database"
    engine = get_engine(get_database().for_url(url))

    assert get_engine(get_database().for_url(url, pool_size=7)) is engine

    [record] = [record for record in caplog.records if record.levelno == logging.WARNING]
    assert "POOL_SIZE" in record.getMessage()
    assert "hidden" not in caplog.text
    await dispose_engines()


async def test_misspelt_name_of_a_database_stops_the_start(
    environment: pytest.MonkeyPatch,
) -> None:
    app = create_app()
    misspelt = Depends(get_session("analytcs"), scope="function")

    @app.get("/misspelt", dependencies=[misspelt])
    async def route() -> None:
        pass

    with pytest.raises(DatabaseNotFoundError, match="'analytcs'"):
        async with app.router.lifespan_context(app):
            pass
