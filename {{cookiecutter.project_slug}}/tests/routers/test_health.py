"""Who asks whether the service can do its work gets an answer in time, and takes no connection for it."""

import asyncio

import pytest
from fastapi import FastAPI
from httpx2 import AsyncClient

from app.core.config import DATABASES
from app.core.database import registry
from tests.support import migrate, problem, set_databases

NOWHERE = "postgresql://u:hidden@127.0.0.1:1/d"


@pytest.fixture
def ask_always(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("app.services.health.SECONDS_OF_USE", 0)


async def test_live_touches_nothing(
    app: FastAPI, client: AsyncClient, environment: pytest.MonkeyPatch
) -> None:
    set_databases(environment, {"primary": NOWHERE})

    answer = await client.get("/health/live")

    assert (200, {"status": "ok", "databases": {}}) == (answer.status_code, answer.json())
    assert not registry._databases


async def test_ready_asks_every_database(client: AsyncClient) -> None:
    answer = await client.get("/health/ready")

    assert (200, dict.fromkeys(DATABASES, "ok")) == (answer.status_code, answer.json()["databases"])


async def test_database_without_its_tables_is_not_ready_until_it_has_them(
    client: AsyncClient, new_database: str, environment: pytest.MonkeyPatch, ask_always: None
) -> None:
    set_databases(environment, {"primary": new_database})

    answer = await client.get("/health/ready")

    assert problem(answer)["detail"] == "primary: migrations pending"
    assert problem(answer)["databases"]["primary"] == "migrations pending"
    assert (503, "1") == (answer.status_code, answer.headers["retry-after"])

    await asyncio.to_thread(migrate, "primary", new_database)
    set_databases(environment, {"primary": new_database})
    assert (await client.get("/health/ready")).status_code == 200


async def test_database_that_cannot_be_reached_is_named_without_its_url(
    client: AsyncClient, environment: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    set_databases(environment, {"primary": NOWHERE})

    answers = [await client.get(f"/health/{name}") for name in ("ready", "primary")]

    for answer in answers:
        assert problem(answer)["detail"] == "primary: unreachable"
        assert "127.0.0.1" not in answer.text
    [record] = [r for r in caplog.records if r.name == "app.services.health"]
    assert record.getMessage().startswith("The database 'primary' cannot be used: unreachable (")
    assert "hidden" not in caplog.text


async def test_health_of_one_database(client: AsyncClient) -> None:
    assert (await client.get("/health/primary")).json()["databases"] == {"primary": "ok"}

    unknown = await client.get("/health/nope")
    assert problem(unknown)["status"] == 404
    assert problem(unknown)["detail"].startswith("there is no database 'nope'; there are: ")
