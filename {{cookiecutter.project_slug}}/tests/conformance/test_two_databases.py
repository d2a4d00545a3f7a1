"""A request with two databases has two sessions and two transactions, without atomicity between them."""

from collections.abc import AsyncGenerator

import pytest
from fastapi import FastAPI
from httpx2 import AsyncClient
from sqlalchemy import text

from app.core.db import get_session, session_scope
from app.dependencies import AnalyticsSessionDep, SessionDep


@pytest.mark.postgresql
async def test_sessions_connect_to_different_databases_of_the_server(databases: None) -> None:
    current = text("SELECT current_database()")
    async with session_scope() as primary, session_scope("analytics") as analytics:
        assert await primary.scalar(current) != await analytics.scalar(current)


async def test_dependency_of_one_database_can_be_overridden_alone(
    app: FastAPI, client: AsyncClient
) -> None:
    async def other() -> AsyncGenerator[str, None]:
        yield "other"

    @app.get("/sessions")
    async def sessions(primary: SessionDep, analytics: AnalyticsSessionDep) -> list[str]:
        return [type(primary).__name__, str(analytics)]

    app.dependency_overrides[get_session("analytics")] = other

    assert (await client.get("/sessions")).json() == ["AsyncSession", "other"]
