"""One session per request and database, from one dependency object that tests can override."""

import asyncio
from collections.abc import AsyncGenerator

import pytest
from fastapi import FastAPI
from httpx2 import AsyncClient
from sqlalchemy import inspect, text
from sqlalchemy.ext.asyncio import AsyncSession

from app.core.config import get_settings
from app.core.db import get_session, session_scope
from app.dependencies import DevSessionDep, PrimarySessionDep, SessionDep
from app.schemas.user import UserCreate
from app.services.user import UserService
from tests.inspection import stored_users
from tests.support import new_user


def test_equal_arguments_return_the_same_dependency() -> None:
    assert get_session() is get_session(None) is get_session("primary")
    assert get_session(dev=True) is get_session("primary", dev=True)


def test_different_arguments_return_different_dependencies() -> None:
    dependencies = {
        get_session(),
        get_session("x"),
        get_session(dev=True),
        get_session("x", dev=True),
    }
    dependencies |= {get_session(read_only=True), get_session("x", read_only=True)}

    assert len(dependencies) == 6


async def test_dependency_yields_one_session_and_commits_it(databases: None) -> None:
    generator = get_session()()
    session = await anext(generator)
    session.add(new_user())
    with pytest.raises(StopAsyncIteration):
        await anext(generator)

    assert await stored_users() == 1


def test_primary_alias_is_the_default_alias() -> None:
    assert PrimarySessionDep is SessionDep


async def test_aliases_of_a_database_share_a_session(app: FastAPI, client: AsyncClient) -> None:
    @app.post("/same")
    async def same(one: SessionDep, other: PrimarySessionDep) -> bool:
        one.add(new_user())
        await one.flush()
        return one is other and await other.scalar(text("SELECT count(*) FROM users")) == 1

    assert (await client.post("/same")).json() is True
    assert await stored_users() == 1


async def test_services_of_a_request_share_its_transaction(
    app: FastAPI, client: AsyncClient
) -> None:
    @app.post("/fail")
    async def fail(first: PrimarySessionDep, session: SessionDep) -> None:
        await UserService(first).create(UserCreate(name="Ada", email="ada@example.com"))
        assert await session.scalar(text("SELECT count(*) FROM users")) == 1
        raise ValueError

    assert (await client.post("/fail")).status_code == 500
    assert await stored_users() == 0


async def test_concurrent_requests_have_different_sessions(
    app: FastAPI, client: AsyncClient
) -> None:
    barrier = asyncio.Barrier(2)
    sessions: set[AsyncSession] = set()

    @app.get("/session")
    async def record_session(session: SessionDep) -> None:
        sessions.add(session)
        await barrier.wait()

    await asyncio.gather(*(client.get("/session") for _ in range(2)))

    assert len(sessions) == 2


async def test_dependency_can_be_overridden(app: FastAPI, client: AsyncClient) -> None:
    async def other() -> AsyncGenerator[AsyncSession, None]:
        async with session_scope() as session:
            session.info["other"] = True
            yield session

    @app.get("/session")
    async def is_overridden(session: SessionDep) -> bool:
        return "other" in session.info

    app.dependency_overrides[get_session()] = other

    assert (await client.get("/session")).json() is True


async def test_dev_alias_uses_the_dev_database(
    app: FastAPI, client: AsyncClient, new_database: str, environment: pytest.MonkeyPatch
) -> None:
    environment.setenv("DEV_DATABASE_URL", new_database)
    get_settings.cache_clear()

    @app.get("/tables")
    async def tables(session: DevSessionDep) -> list[str]:
        connection = await session.connection()
        return await connection.run_sync(lambda sync: inspect(sync).get_table_names())

    assert (await client.get("/tables")).json() == []
