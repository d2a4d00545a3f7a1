"""An unreachable database raises OperationalError, a full pool TimeoutError: both are 503."""

import asyncio

import pytest
from fastapi import FastAPI
from httpx2 import AsyncClient
from sqlalchemy import text
from sqlalchemy.exc import OperationalError
from sqlalchemy.exc import TimeoutError as PoolTimeoutError

from app.core.db import dispose_engines, session_scope
from app.dependencies import SessionDep
from tests.inspection import checked_out, sqlite_connections
from tests.support import configure, problem, query, set_databases, until


@pytest.mark.parametrize(
    "url",
    [
        "postgresql://user:hidden@127.0.0.1:1/d",  # nobody listens
        "postgresql://user:hidden@nowhere.invalid/d",  # the name is unknown
        "sqlite:////dev/null/x.db",  # cannot be opened
    ],
)
async def test_database_that_cannot_be_reached_is_an_operational_error(
    environment: pytest.MonkeyPatch, url: str
) -> None:
    set_databases(environment, {"primary": url})

    with pytest.raises(OperationalError) as error:
        await query()

    assert "hidden" not in str(error.value)
    assert not checked_out()
    await dispose_engines()
    await until(lambda: sqlite_connections() == 0)


async def test_full_pool_is_a_timeout_error_and_503(
    app: FastAPI,
    client: AsyncClient,
    environment: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    configure(environment, pool_size=1, pool_timeout=0.1)

    @app.get("/query")
    async def route(session: SessionDep) -> None:
        await session.execute(text("SELECT 1"))

    async with asyncio.timeout(5), session_scope() as session:
        await session.execute(text("SELECT 1"))
        with pytest.raises(PoolTimeoutError):
            await query()
        response = await client.get("/query")

    assert problem(response)["status"] == 503
    assert response.headers["retry-after"] == "1"
    assert "; database: primary" in caplog.text
    assert (await client.get("/query")).is_success
