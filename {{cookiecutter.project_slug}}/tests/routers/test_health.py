"""Health probes: readiness reports each database, without its URL."""

import asyncio

import pytest
from httpx2 import AsyncClient

from app.core.config import DATABASES
from tests.support import migrate, problem, set_databases

NOWHERE = "postgresql://u:hidden@127.0.0.1:1/d"


async def test_readiness_checks_every_database(client: AsyncClient) -> None:
    response = await client.get("/health/ready")

    assert response.status_code == 200
    assert response.json()["databases"] == dict.fromkeys(DATABASES, "ok")


async def test_database_is_not_ready_until_it_is_migrated(
    client: AsyncClient, new_database: str, environment: pytest.MonkeyPatch
) -> None:
    environment.setattr("app.services.health.CACHE_SECONDS", 0)
    set_databases(environment, {"primary": new_database})

    response = await client.get("/health/ready")

    assert problem(response)["detail"] == "primary: migrations pending"
    assert problem(response)["databases"]["primary"] == "migrations pending"
    assert (503, "1") == (response.status_code, response.headers["retry-after"])

    await asyncio.to_thread(migrate, "primary", new_database)
    set_databases(environment, {"primary": new_database})
    assert (await client.get("/health/ready")).status_code == 200


async def test_unreachable_database_is_named_without_its_url(
    client: AsyncClient, environment: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    set_databases(environment, {"primary": NOWHERE})

    responses = [await client.get(f"/health/{name}") for name in ("ready", "primary")]

    for response in responses:
        assert problem(response)["detail"] == "primary: unreachable"
        assert "127.0.0.1" not in response.text
    [record] = [r for r in caplog.records if r.name == "app.services.health"]
    assert record.getMessage().startswith("The database 'primary' cannot be used: unreachable (")
    assert "hidden" not in caplog.text


async def test_one_database_can_be_checked(client: AsyncClient) -> None:
    assert (await client.get("/health/primary")).json()["databases"] == {"primary": "ok"}

    unknown = await client.get("/health/nope")
    assert problem(unknown)["status"] == 404
    assert problem(unknown)["detail"].startswith("there is no database 'nope'; there are: ")
