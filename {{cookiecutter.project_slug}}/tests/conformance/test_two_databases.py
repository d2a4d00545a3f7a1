"""A request with two databases has two sessions and two transactions, without atomicity between them."""

from collections.abc import AsyncGenerator

import pytest
from fastapi import FastAPI
from httpx2 import AsyncClient
from sqlalchemy import func, select, text
from sqlalchemy.exc import IntegrityError

from app.core.db import get_engine, get_session, session_scope
from app.dependencies import AnalyticsSessionDep, SessionDep
from app.models import Event, User
from tests.support import violate_at_commit


async def stored() -> tuple[int, int]:
    async with session_scope() as primary, session_scope("analytics") as analytics:
        return (
            await primary.scalar(select(func.count(User.id))) or 0,
            await analytics.scalar(select(func.count(Event.id))) or 0,
        )


def test_each_database_has_its_own_dependency() -> None:
    assert get_session() is not get_session("analytics")


async def test_each_database_has_its_own_engine(databases: None) -> None:
    assert get_engine() is not get_engine("analytics")


@pytest.mark.postgresql
async def test_sessions_connect_to_different_databases_of_the_server(databases: None) -> None:
    current = text("SELECT current_database()")
    async with session_scope() as primary, session_scope("analytics") as analytics:
        assert await primary.scalar(current) != await analytics.scalar(current)


async def test_request_commits_both(app: FastAPI, server: AsyncClient) -> None:
    @app.post("/both")
    async def both(primary: SessionDep, analytics: AnalyticsSessionDep) -> None:
        primary.add(User(name="Ada", email="ada@example.com"))
        analytics.add(Event(name="seen"))

    assert (await server.post("/both")).status_code == 200
    assert await stored() == (1, 1)


async def test_exception_rolls_both_back(app: FastAPI, server: AsyncClient) -> None:
    @app.post("/both")
    async def both(primary: SessionDep, analytics: AnalyticsSessionDep) -> None:
        primary.add(User(name="Ada", email="ada@example.com"))
        analytics.add(Event(name="seen"))
        await primary.flush()
        await analytics.flush()
        raise RuntimeError

    assert (await server.post("/both")).status_code == 500
    assert await stored() == (0, 0)


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


@pytest.mark.parametrize(("failing", "expected"), [("primary", (0, 1)), ("analytics", (0, 0))])
async def test_request_returns_an_error_if_either_commit_fails(
    app: FastAPI, server: AsyncClient, failing: str, expected: tuple[int, int]
) -> None:
    """The session that was requested last commits first. Its rows stay."""

    @app.post("/both")
    async def both(primary: SessionDep, analytics: AnalyticsSessionDep) -> None:
        primary.add(User(name="Ada", email="ada@example.com"))
        analytics.add(Event(name="seen"))
        await violate_at_commit(primary if failing == "primary" else analytics)

    assert (await server.post("/both")).status_code == 409
    assert await stored() == expected


async def test_failed_commit_does_not_undo_the_commit_of_the_other_database(
    databases: None,
) -> None:
    with pytest.raises(IntegrityError):
        async with session_scope() as primary, session_scope("analytics") as analytics:
            analytics.add(Event(name="seen"))
            await violate_at_commit(primary)

    assert await stored() == (0, 1)
