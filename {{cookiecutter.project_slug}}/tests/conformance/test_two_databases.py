"""A request with two databases has two sessions and two transactions, without atomicity between them."""

from collections.abc import AsyncGenerator

import pytest
from fastapi import FastAPI
from httpx2 import AsyncClient
from sqlalchemy import select, text
from sqlalchemy.ext.asyncio import AsyncSession

from app.core.db import get_session, session_scope
from app.dependencies import AnalyticsSessionDep, SessionDep
from app.models import Event
from tests.conformance.support import is_unavailable
from tests.inspection import fetch, stored_users
from tests.support import new_user, problem


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
        return [str(isinstance(primary, AsyncSession)), str(analytics)]

    app.dependency_overrides[get_session("analytics")] = other

    assert (await client.get("/sessions")).json() == ["True", "other"]


CONFLICT_AT_COMMIT = (
    "CREATE FUNCTION conflict() RETURNS trigger LANGUAGE plpgsql "
    "AS $$ BEGIN RAISE 'conflict' USING ERRCODE = 'serialization_failure'; END $$",
    "CREATE CONSTRAINT TRIGGER conflict AFTER INSERT ON users "
    "DEFERRABLE INITIALLY DEFERRED FOR EACH ROW EXECUTE FUNCTION conflict()",
)


@pytest.mark.postgresql
async def test_503_after_the_other_commit_does_not_promise_that_nothing_was_stored(
    app: FastAPI, client: AsyncClient
) -> None:
    for statement in CONFLICT_AT_COMMIT:
        await fetch(statement)

    @app.post("/both")
    async def write(primary: SessionDep, analytics: AnalyticsSessionDep) -> None:
        primary.add(new_user())
        analytics.add(Event(name="stored"))  # this session commits first

    response = await client.post("/both")

    assert is_unavailable(response)
    detail = "Another transaction was in the way. Earlier commits of this request stay stored."
    assert problem(response)["detail"] == detail
    assert await stored_users() == 0
    async with session_scope("analytics") as session:
        assert len((await session.scalars(select(Event))).all()) == 1
