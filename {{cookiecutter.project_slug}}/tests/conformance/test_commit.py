"""A request commits before its response is sent, and a failed commit gives an error response."""

import os
from pathlib import Path

import pytest
from fastapi import FastAPI
from httpx2 import AsyncClient
from sqlalchemy.exc import IntegrityError

from app.core import db
from app.core.config import variable
from app.core.db import dispose_engines, session_scope
from app.dependencies import SessionDep
from tests.conformance.harness.proxy import Proxy
from tests.inspection import nobody_is_connected, stored_users
from tests.support import new_user, problem, serves, set_databases, until, violate_at_commit


async def test_session_is_usable_after_a_failed_commit(databases: None) -> None:
    async with session_scope() as session:
        session.add(new_user())
        await violate_at_commit(session)
        with pytest.raises(IntegrityError):
            await session.commit()
        await session.rollback()
        session.add(new_user())

    assert await stored_users() == 1


@pytest.mark.postgresql
@pytest.mark.parametrize(("is_delivered", "rows"), [(False, 0), (True, 1)])
async def test_connection_lost_during_commit_returns_an_error(
    app: FastAPI,
    server: AsyncClient,
    environment: pytest.MonkeyPatch,
    is_delivered: bool,
    rows: int,
) -> None:
    """The client cannot know whether the row was stored, so the response must not be a success."""

    @app.post("/write")
    async def write(session: SessionDep) -> None:
        session.add(new_user())
        await session.flush()
        proxy.lose(b"COMMIT", is_delivered=is_delivered)

    async with Proxy(os.environ[variable("primary")]) as proxy:
        set_databases(environment, {"primary": proxy.url})
        response = await server.post("/write")

        assert problem(response)["status"] == 503
        await until(nobody_is_connected)
        assert await stored_users() == rows
        assert await serves(server)
        await dispose_engines()


def test_app_calls_session_commit_in_one_module() -> None:
    app = Path(db.__file__).parents[1]
    modules = [path for path in app.rglob("*.py") if "session.commit" in path.read_text()]

    assert [Path(db.__file__)] == modules
