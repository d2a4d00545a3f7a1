"""Settings that PostgreSQL applies: timeouts and the application name."""

import asyncio
import os
from time import monotonic
from typing import Any

import pytest
from fastapi import FastAPI
from httpx2 import AsyncClient
from sqlalchemy import make_url, text
from sqlalchemy.ext.asyncio import AsyncResult

from app import NAME
from app.core.config import variable
from app.core.db import session_scope
from app.dependencies import SessionDep
from tests.inspection import fetch, kill, pid, stored_users, until_closed
from tests.support import configure, new_user, problem, set_databases, until

pytestmark = [pytest.mark.postgresql, pytest.mark.pgbouncer]


async def test_server_applies_the_timeouts_of_the_settings(
    databases: None, environment: pytest.MonkeyPatch
) -> None:
    configure(environment, statement_timeout=1.5, lock_timeout=2, idle_in_transaction_timeout=0)

    async with session_scope() as session:
        timeouts = [
            await session.scalar(text(f"SHOW {name}"))
            for name in ("statement_timeout", "lock_timeout", "idle_in_transaction_session_timeout")
        ]

    assert ["1500ms", "2s", "0"] == timeouts


@pytest.mark.parametrize(
    ("query", "name"), [("", NAME), ("?application_name=ours", "ours")], ids=["setting", "url"]
)
async def test_application_name_is_that_of_the_url_or_the_settings(
    databases: None, environment: pytest.MonkeyPatch, query: str, name: str
) -> None:
    url = make_url(os.environ[variable("primary")]).update_query_string(query[1:])
    set_databases(environment, {"primary": url.render_as_string(hide_password=False)})

    async with session_scope() as session:
        assert await session.scalar(text("SHOW application_name")) == name


async def test_statement_timeout_returns_503_with_retry_after(
    app: FastAPI, client: AsyncClient, environment: pytest.MonkeyPatch
) -> None:
    configure(environment, statement_timeout=0.05)

    @app.get("/slow")
    async def slow(session: SessionDep) -> None:
        await session.execute(text("SELECT pg_sleep(60)"))

    response = await client.get("/slow")

    assert (503, "1") == (response.status_code, response.headers["retry-after"])


@pytest.mark.parametrize("next_", ["commit", "statement"])
async def test_idle_in_transaction_timeout_returns_503_and_stores_nothing(
    app: FastAPI,
    server: AsyncClient,
    environment: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    next_: str,
) -> None:
    configure(environment, idle_in_transaction_timeout=0.05)

    @app.post("/idle")
    async def idle(session: SessionDep) -> None:
        session.add(new_user())
        await session.flush()
        await until_closed(await pid(session))
        if next_ == "statement":
            await session.execute(text("SELECT 1"))

    response = await server.post("/idle")

    assert (503, "1") == (response.status_code, response.headers["retry-after"])
    assert problem(response)["detail"] == "The transaction was idle for too long."
    assert "IDLE_IN_TRANSACTION_TIMEOUT=0.05 was exceeded; database: primary" in caplog.text
    assert await stored_users() == 0


async def test_connection_that_is_lost_in_a_short_transaction_was_not_idle(
    app: FastAPI, server: AsyncClient, environment: pytest.MonkeyPatch
) -> None:
    @app.post("/lost")
    async def lost(session: SessionDep) -> None:
        await kill(await pid(session))
        session.add(new_user())

    assert problem(await server.post("/lost"))["detail"] == "The database cannot be reached."


@pytest.mark.parametrize("is_one_fetch", [False, True])
async def test_stream_that_is_cut_after_the_idle_timeout_was_not_idle(
    app: FastAPI, server: AsyncClient, environment: pytest.MonkeyPatch, is_one_fetch: bool
) -> None:
    seconds = 1.0
    configure(environment, idle_in_transaction_timeout=seconds)

    @app.post("/stream")
    async def stream(session: SessionDep) -> None:
        number = await pid(session)
        slow = text("SELECT n, pg_sleep(0.01) FROM generate_series(1, 10000) n")
        rows = await session.stream(slow.execution_options(yield_per=10))
        reading = asyncio.create_task(rows.all() if is_one_fetch else read_for(1.1 * seconds, rows))

        async def is_longer() -> bool:
            return reading.done() or bool(await fetch(LONGER.format(number, seconds)))

        await until(is_longer)
        await kill(number)
        await reading
        await rows.all()

    response = await server.post("/stream")

    assert problem(response)["detail"] == "The database cannot be reached."


LONGER = """
SELECT 1 FROM pg_stat_activity WHERE pid = {} AND state_change < now() - interval '{} s'
"""


async def read_for(seconds: float, rows: AsyncResult[Any]) -> None:
    began = monotonic()
    while monotonic() - began < seconds:
        await rows.fetchmany(10)


async def test_stream_that_is_not_read_was_idle(
    app: FastAPI, server: AsyncClient, environment: pytest.MonkeyPatch
) -> None:
    configure(environment, idle_in_transaction_timeout=0.05)

    @app.post("/stream")
    async def stream(session: SessionDep) -> None:
        number = await pid(session)
        many = text("SELECT n FROM generate_series(1, 1000) n")
        rows = await session.stream(many.execution_options(yield_per=10))
        await rows.fetchmany(10)
        await until_closed(number)
        await rows.all()

    response = await server.post("/stream")

    assert problem(response)["detail"] == "The transaction was idle for too long."
