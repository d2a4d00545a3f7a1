"""Health checks under load, with several names for one database, and with databases that do not respond."""

import asyncio
import os

import pytest
from fastapi import FastAPI
from httpx2 import AsyncClient
from sqlalchemy import text

from app.core.config import DATABASES, variable
from app.core.database import registry
from app.core.db import dispose_engines, session_scope
from tests.conformance.harness.proxy import Proxy
from tests.inspection import connections
from tests.support import configure, set_databases, until


@pytest.fixture
def no_cache(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("app.services.health.CACHE_SECONDS", 0)


async def test_liveness_opens_no_connection(
    app: FastAPI, client: AsyncClient, environment: pytest.MonkeyPatch
) -> None:
    set_databases(environment, {"primary": "postgresql://u:hidden@127.0.0.1:1/d"})

    response = await client.get("/health/live")

    assert (200, {"status": "ok", "databases": {}}) == (response.status_code, response.json())
    assert not registry._databases


async def test_database_migrated_by_a_newer_release_is_ready(client: AsyncClient) -> None:
    async with session_scope() as session:
        await session.execute(text("UPDATE alembic_version SET version_num = 'newer'"))

    assert (await client.get("/health/ready")).status_code == 200


@pytest.mark.sqlite
@pytest.mark.postgresql  # not through PgBouncer: the settings of the second name do not have it
async def test_second_name_of_a_database_is_ready(
    client: AsyncClient, environment: pytest.MonkeyPatch
) -> None:
    set_databases(environment, {"another_name": os.environ[variable("primary")]})

    assert (await client.get("/health/ready")).json()["databases"]["another_name"] == "ok"


async def test_readiness_does_not_wait_for_a_pooled_connection(
    client: AsyncClient, single_connection: None, no_cache: None
) -> None:
    async with session_scope() as session, session_scope(read_only=True) as reader:
        await session.execute(text("SELECT 1"))
        await reader.execute(text("SELECT 1"))

        for _ in range(2):
            assert (await client.get("/health/ready")).status_code == 200


@pytest.mark.sqlite
@pytest.mark.postgresql  # not through PgBouncer, which keeps its own connections open
async def test_concurrent_probes_share_one_connection(
    client: AsyncClient, environment: pytest.MonkeyPatch
) -> None:
    responses = await asyncio.gather(*(client.get("/health/ready") for _ in range(50)))

    assert {200} == {response.status_code for response in responses}
    assert await connections() == (
        1 if os.environ[variable("primary")][0] == "p" else len(DATABASES)
    )


async def test_result_is_cached_for_a_second(client: AsyncClient) -> None:
    before = await client.get("/health/ready")
    async with session_scope() as session:
        await session.execute(text("DELETE FROM alembic_version"))

    async def is_no_longer_ready() -> bool:
        return (await client.get("/health/ready")).status_code == 503

    assert (await client.get("/health/ready")).json() == before.json()
    await until(is_no_longer_ready)


@pytest.mark.postgresql
@pytest.mark.parametrize("latency", [0.01, 0.1])
async def test_database_on_a_slow_network_is_ready_until_it_stops_responding(
    client: AsyncClient, environment: pytest.MonkeyPatch, no_cache: None, latency: float
) -> None:
    """With the longer latency, connecting and each check take longer than a probe waits."""
    environment.setattr("app.services.health.CHECK_TIMEOUT", 0.15)
    configure(environment, tcp_keepalive=0, connect_timeout=10)

    async def is_ready() -> bool:
        return (await client.get("/health/primary")).status_code == 200

    async def is_unreachable() -> bool:
        response = await client.get("/health/primary")
        return response.status_code == 503 and "unreachable" in response.text

    async with Proxy(os.environ[variable("primary")]) as proxy:
        set_databases(environment, {"primary": proxy.url})
        proxy.latency = latency
        for _ in range(3):
            await until(is_ready, 60)
        proxy.cut()
        proxy.hold()
        await until(is_unreachable, 60)
        await dispose_engines()


async def test_cancelled_probe_does_not_cancel_the_shared_check(
    app: FastAPI, client: AsyncClient
) -> None:
    health = app.state.health
    first, second = (asyncio.create_task(health.check("primary")) for _ in range(2))
    await until(lambda: bool(health._checks))
    first.cancel()

    assert await second == {"primary": "ok"}
