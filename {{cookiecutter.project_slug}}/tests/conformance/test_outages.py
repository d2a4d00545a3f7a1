"""Whatever keeps a session from its database is an OperationalError, and 503."""

import asyncio
import os
from typing import Any

import pytest
from fastapi import FastAPI, Request
from fastapi.responses import PlainTextResponse
from httpx2 import AsyncClient
from sqlalchemy import make_url, text
from sqlalchemy.exc import OperationalError
from sqlalchemy.exc import TimeoutError as PoolTimeoutError
from sqlalchemy.ext.asyncio import AsyncSession

from app.core.config import get_settings, variable
from app.core.db import session_scope
from app.dependencies import SessionDep
from tests.inspection import checked_out, kill, pid, stored_users, until_active
from tests.support import configure, new_email, new_user, problem, serves, set_databases


@pytest.mark.parametrize(
    "url",
    [
        "postgresql://u:hidden@127.0.0.1:1/d",  # nobody listens
        "postgresql://u:hidden@nowhere.invalid/d",  # cannot be resolved
        f"postgresql://u:hidden@{'x' * 64}.invalid/d",  # is no name
    ],
)
async def test_server_that_cannot_be_reached_is_an_operational_error(
    environment: pytest.MonkeyPatch, url: str
) -> None:
    environment.setenv("DATABASE_URL", url)

    with pytest.raises(OperationalError) as error:
        async with session_scope() as session:
            await session.execute(text("SELECT 1"))

    assert "hidden" not in str(error.value)
    assert not checked_out()


@pytest.mark.parametrize(
    "variables",
    [
        {"DATABASE_URL": "postgresql://u:hidden@127.0.0.1:1/d"},  # nobody listens
        {"DATABASE_URL": "postgresql://u:hidden@nowhere.invalid/d"},  # cannot be resolved
        {"DATABASE_URL": "sqlite:////dev/null/x.db"},  # cannot be opened
    ],
)
async def test_database_that_cannot_be_reached(
    client: AsyncClient, environment: pytest.MonkeyPatch, variables: dict[str, str]
) -> None:
    environment.delenv("DATABASES__PRIMARY__DATABASE_URL")
    for name, value in variables.items():
        environment.setenv(name, value)
    get_settings.cache_clear()

    answer = await client.get("/users")

    assert problem(answer)["status"] == 503
    assert answer.headers["retry-after"] == "1"
    assert "hidden" not in answer.text


async def test_pool_that_is_exhausted_says_so_within_its_timeout_and_recovers(
    client: AsyncClient, environment: pytest.MonkeyPatch
) -> None:
    configure(environment, pool_size=1, pool_timeout=0.1)

    async with session_scope() as holder, asyncio.timeout(5):
        await holder.execute(text("SELECT 1"))
        with pytest.raises(PoolTimeoutError):
            async with session_scope() as session:
                await session.execute(text("SELECT 1"))
        answer = await client.post("/users", json={"name": "Ada", "email": new_email()})

    assert problem(answer)["status"] == 503
    assert answer.headers["retry-after"] == "1"
    assert await serves(client)


async def test_handler_of_the_apps_own_sees_an_operational_error(
    app: FastAPI, client: AsyncClient, environment: pytest.MonkeyPatch
) -> None:
    @app.exception_handler(OperationalError)
    async def unavailable(_: Request, error: OperationalError) -> PlainTextResponse:
        return PlainTextResponse("ours", status_code=599)

    environment.setenv("DATABASES__PRIMARY__DATABASE_URL", "postgresql://u:p@127.0.0.1:1/d")
    get_settings.cache_clear()

    assert (await client.get("/users")).text == "ours"


async def test_outage_is_logged_in_one_line(
    client: AsyncClient, environment: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    environment.setenv("DATABASES__PRIMARY__DATABASE_URL", "postgresql://u:hidden@127.0.0.1:1/d")
    get_settings.cache_clear()

    await client.get("/users")

    [message] = [r.getMessage() for r in caplog.records if r.name == "app.core.web.error_handlers"]
    assert message.startswith("Service unavailable (503): ")
    assert "127.0.0.1" in message
    assert "hidden" not in caplog.text


@pytest.mark.postgresql
@pytest.mark.parametrize(
    "wrong", [{"database": "nowhere_test"}, {"username": "nobody", "password": "hidden"}]
)
async def test_connection_that_is_refused_is_an_outage_whatever_the_reason(
    client: AsyncClient, environment: pytest.MonkeyPatch, wrong: dict[str, Any]
) -> None:
    url = make_url(os.environ[variable("primary")]).set(**wrong)
    set_databases(environment, {"primary": url.render_as_string(hide_password=False)})

    with pytest.raises(OperationalError) as error:
        async with session_scope() as session:
            await session.execute(text("SELECT 1"))
    answer = await client.get("/users")

    assert getattr(error.value.orig, "sqlstate", None) is None
    assert (503, "1") == (answer.status_code, answer.headers["retry-after"])
    assert "hidden" not in f"{error.value} {answer.text}"


async def die_before_a_statement(session: AsyncSession) -> None:
    await kill(await pid(session))
    await session.execute(text("SELECT 1"))


async def die_in_a_statement(session: AsyncSession) -> None:
    number = await pid(session)
    sleep = asyncio.create_task(session.execute(text("SELECT pg_sleep(60)")))
    await until_active(number)
    await kill(number)
    await sleep


async def die_before_the_commit(session: AsyncSession) -> None:
    await kill(await pid(session))


DEATHS = [die_before_a_statement, die_in_a_statement, die_before_the_commit]


@pytest.mark.postgresql
@pytest.mark.parametrize("die", DEATHS)
async def test_connection_that_dies_is_an_operational_error(single: None, die: Any) -> None:
    with pytest.raises(OperationalError):
        async with session_scope() as session:
            session.add(new_user())
            await session.flush()
            await die(session)

    assert await stored_users() == 0


@pytest.mark.postgresql
@pytest.mark.parametrize("die", DEATHS)
async def test_connection_that_dies_in_a_request_is_an_error_answer_and_no_row(
    app: FastAPI, single: None, server: AsyncClient, die: Any
) -> None:
    @app.post("/write")
    async def write(session: SessionDep) -> None:
        session.add(new_user())
        await session.flush()
        await die(session)

    answer = await server.post("/write")

    assert (503, "1") == (answer.status_code, answer.headers["retry-after"])
    assert "terminating" not in answer.text
    assert await stored_users() == 0
    assert await serves(server)
