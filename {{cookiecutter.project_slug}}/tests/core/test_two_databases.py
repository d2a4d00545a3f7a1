"""One request with two databases: two sessions, two transactions, no atomicity between them."""

import pytest
from fastapi import FastAPI
from httpx2 import AsyncClient
from sqlalchemy import func, select

from app.core.db import get_engine, get_session, session_scope
from app.dependencies import AnalyticsSessionDep, SessionDep
from app.models import Event
from tests.inspection import stored_users
from tests.support import new_user, violate_at_commit


async def stored() -> tuple[int, int]:
    """Count the committed users and events."""
    async with session_scope("analytics", read_only=True) as session:
        return await stored_users(), await session.scalar(select(func.count(Event.id))) or 0


async def test_each_database_has_its_own_dependency_and_engine(databases: None) -> None:
    assert get_session() is not get_session("analytics")
    assert get_engine() is not get_engine("analytics")


@pytest.mark.parametrize(
    ("failing", "status", "expected"),
    [
        (None, 200, (1, 1)),
        ("route", 500, (0, 0)),
        # The session that the route names last commits first, and its rows stay.
        ("primary", 409, (0, 1)),
        ("analytics", 409, (0, 0)),
    ],
)
async def test_request_commits_or_rolls_back_each_database(
    app: FastAPI, server: AsyncClient, failing: str | None, status: int, expected: tuple[int, int]
) -> None:
    @app.post("/both")
    async def both(primary: SessionDep, analytics: AnalyticsSessionDep) -> None:
        primary.add(new_user())
        analytics.add(Event(name="seen"))
        await primary.flush()
        await analytics.flush()
        if failing == "route":
            raise RuntimeError
        if failing:
            await violate_at_commit(primary if failing == "primary" else analytics)

    assert (await server.post("/both")).status_code == status
    assert await stored() == expected
