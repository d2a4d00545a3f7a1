"""One session per request and database, from one dependency object that tests can override."""

import asyncio
from collections.abc import AsyncGenerator

from fastapi import FastAPI
from httpx2 import AsyncClient
from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncSession

from app.core.db import get_session, session_scope
from app.dependencies import PrimarySessionDep, SessionDep
from app.schemas.user import UserCreate
from app.services.user import UserService
from tests.inspection import stored_users
from tests.support import user_values


async def test_services_of_a_request_share_its_transaction(
    app: FastAPI, client: AsyncClient
) -> None:
    @app.post("/fail")
    async def fail(first: PrimarySessionDep, session: SessionDep) -> None:
        await UserService(first).create(UserCreate(**user_values()))
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
