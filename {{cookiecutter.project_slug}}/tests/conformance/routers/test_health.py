"""Health checks under load, with several names for one database, and with databases that do not respond."""

import asyncio
import os

import pytest
from fastapi import FastAPI
from httpx2 import AsyncClient
from sqlalchemy import text

from app.core.config import DATABASES, variable
from app.core.db import session_scope
from tests.conformance.harness.proxy import Proxy
from tests.inspection import connections
from tests.support import configure, problem, set_databases, until


@pytest.fixture
def ask_always(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("app.services.health.SECONDS_OF_USE", 0)


async def test_database_of_a_newer_release_is_ready(client: AsyncClient) -> None:
    async with session_scope() as session:
        await session.execute(text("UPDATE alembic_version SET version_num = 'newer'"))

    assert (await client.get("/health/ready")).status_code == 200


async def test_second_name_of_a_database_is_ready_too(
    client: AsyncClient, environment: pytest.MonkeyPatch
) -> None:
    set_databases(environment, {"another_name": os.environ[variable("primary")]})

    assert (await client.get("/health/ready")).json()["databases"]["another_name"] == "ok"


async def test_answer_waits_behind_no_request(
    client: AsyncClient, single: None, ask_always: None
) -> None:
    async with session_scope() as session, session_scope(read_only=True) as reader:
        await session.execute(text("SELECT 1"))
        await reader.execute(text("SELECT 1"))

        for _ in range(2):
            assert (await client.get("/health/ready")).status_code == 200


@pytest.mark.sqlite
@pytest.mark.postgresql  # and not through PgBouncer, which keeps connections of its own
async def test_crowd_that_asks_is_one_connection(
    client: AsyncClient, environment: pytest.MonkeyPatch
) -> None:
    answers = await asyncio.gather(*(client.get("/health/ready") for _ in range(50)))

    assert {200} == {answer.status_code for answer in answers}
    assert await connections() == (
        1 if os.environ[variable("primary")][0] == "p" else len(DATABASES)
    )


async def test_answer_is_used_for_a_second(client: AsyncClient) -> None:
    before = await client.get("/health/ready")
    async with session_scope() as session:
        await session.execute(text("DELETE FROM alembic_version"))

    async def is_ready_no_more() -> bool:
        return (await client.get("/health/ready")).status_code == 503

    assert (await client.get("/health/ready")).json() == before.json()
    await until(is_ready_no_more)


@pytest.mark.postgresql
async def test_database_that_does_not_answer_is_given_up_in_time(
    app: FastAPI, client: AsyncClient, environment: pytest.MonkeyPatch, ask_always: None
) -> None:
    environment.setattr("app.services.health.SECONDS_TO_ANSWER", 0.2)
    configure(environment, tcp_keepalive=0)
    health = app.state.health
    async with Proxy(os.environ[variable("primary")]) as proxy:
        set_databases(environment, {"primary": proxy.url})
        assert (await client.get("/health/primary")).status_code == 200
        proxy.cut()
        proxy.hold()

        async with asyncio.timeout(1):
            answer = await client.get("/health/ready")

        assert problem(answer)["detail"] == "primary: unreachable"
        await until(lambda: not health._late)


async def test_who_asks_first_and_leaves_takes_no_answer_away(
    app: FastAPI, client: AsyncClient
) -> None:
    health = app.state.health
    first, second = (asyncio.create_task(health.of("primary")) for _ in range(2))
    await until(lambda: bool(health._checks))
    first.cancel()

    assert await second == {"primary": "ok"}
