"""An unavailable database raises OperationalError, and the response is 503 with Retry-After."""

import asyncio
import os

import pytest
from fastapi import FastAPI, Request
from fastapi.responses import PlainTextResponse
from httpx2 import AsyncClient
from sqlalchemy import make_url, text
from sqlalchemy.exc import OperationalError
from sqlalchemy.ext.asyncio import AsyncSession

from app.core.config import get_settings, variable
from app.core.db import dispose_engines, session_scope
from app.dependencies import SessionDep
from tests.conformance.harness.proxy import Proxy
from tests.conformance.support import is_unavailable
from tests.inspection import fetch, kill, pid, stored_users, until_active
from tests.support import (
    USERS,
    configure,
    new_user,
    problem,
    serves,
    set_databases,
    user_values,
)

UNREACHABLE = [
    "postgresql://u:hidden@127.0.0.1:1/d",  # connection refused
    "postgresql://u:hidden@nowhere.invalid/d",  # name not found
    f"postgresql://u:hidden@{'x' * 64}.invalid/d",  # not a valid host name
    "sqlite:////dev/null/x.db",  # not a directory
]


@pytest.mark.sqlite  # the URL of the test replaces that of the database
async def test_unreachable_database_returns_503(
    client: AsyncClient, environment: pytest.MonkeyPatch
) -> None:
    for url in UNREACHABLE:
        set_databases(environment, {"primary": url})

        response = await client.get(USERS)

        assert problem(response), url
        assert is_unavailable(response), url
        assert "hidden" not in response.text


@pytest.mark.sqlite  # the URL of the test replaces that of the database
async def test_custom_handler_of_operational_errors_is_called(
    app: FastAPI, client: AsyncClient, environment: pytest.MonkeyPatch
) -> None:
    @app.exception_handler(OperationalError)
    async def unavailable(_: Request, error: OperationalError) -> PlainTextResponse:
        return PlainTextResponse("custom", status_code=599)

    environment.setenv("DATABASES__PRIMARY__DATABASE_URL", "postgresql://u:p@127.0.0.1:1/d")
    get_settings.cache_clear()

    assert (await client.get(USERS)).text == "custom"


@pytest.mark.sqlite  # the URL of the test replaces that of the database
async def test_outage_is_logged_as_one_record(
    client: AsyncClient, environment: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    environment.setenv("DATABASES__PRIMARY__DATABASE_URL", "postgresql://u:hidden@127.0.0.1:1/d")
    get_settings.cache_clear()

    await client.get(USERS)

    [message] = [r.getMessage() for r in caplog.records if r.name == "app.core.web.error_handlers"]
    assert message.startswith("Service unavailable (503): ")
    assert message.endswith("; database: primary")
    assert "127.0.0.1" in message
    assert "hidden" not in caplog.text


@pytest.mark.postgresql
async def test_rejected_login_counts_as_an_outage(
    client: AsyncClient, environment: pytest.MonkeyPatch
) -> None:
    right = make_url(os.environ[variable("primary")])
    for url in (
        right.set(database="nowhere_test"),
        right.set(username="nobody", password="hidden"),  # noqa: S106
    ):
        set_databases(environment, {"primary": url.render_as_string(hide_password=False)})

        with pytest.raises(OperationalError) as error:
            async with session_scope() as session:
                await session.execute(text("SELECT 1"))
        response = await client.get(USERS)

        assert getattr(error.value.orig, "sqlstate", None) is None
        assert is_unavailable(response)
        assert "hidden" not in f"{error.value} {response.text}"


async def kill_before_a_statement(session: AsyncSession) -> None:
    await kill(await pid(session))
    await session.execute(text("SELECT 1"))


async def kill_during_a_statement(session: AsyncSession) -> None:
    number = await pid(session)
    sleep = asyncio.create_task(session.execute(text("SELECT pg_sleep(60)")))
    await until_active(number)
    await kill(number)
    await sleep


async def kill_before_the_commit(session: AsyncSession) -> None:
    await kill(await pid(session))


KILLS = [kill_before_a_statement, kill_during_a_statement, kill_before_the_commit]


@pytest.mark.postgresql
async def test_killed_connection_raises_operational_error(single_connection: None) -> None:
    for kill_connection in KILLS:
        with pytest.raises(OperationalError):
            async with session_scope() as session:
                session.add(new_user())
                await session.flush()
                await kill_connection(session)

        assert await stored_users() == 0, kill_connection


@pytest.mark.postgresql
async def test_killed_connection_in_a_request_returns_503_and_stores_no_row(
    app: FastAPI, single_connection: None, server: AsyncClient
) -> None:
    @app.post("/write/{number}")
    async def write(session: SessionDep, number: int) -> None:
        session.add(new_user())
        await session.flush()
        await KILLS[number](session)

    for number, kill_connection in enumerate(KILLS):
        response = await server.post(f"/write/{number}")

        assert is_unavailable(response), kill_connection
        assert "terminating" not in response.text
        assert await stored_users() == number  # of the requests after the error
        assert await serves(server)


# COMMIT

UNKNOWN = "The outcome is unknown: the data of this request may be stored or not."
SLOW_COMMIT = (
    "CREATE FUNCTION slow() RETURNS trigger LANGUAGE plpgsql "
    "AS 'BEGIN PERFORM pg_sleep(60); RETURN NULL; END'",
    "CREATE CONSTRAINT TRIGGER slow AFTER INSERT ON users "
    "DEFERRABLE INITIALLY DEFERRED FOR EACH ROW EXECUTE FUNCTION slow()",
)


@pytest.mark.postgresql
@pytest.mark.parametrize("pgbouncer", [False, True])  # it adds the limits to each transaction
async def test_commit_without_a_response_returns_503_with_an_unknown_outcome(
    client: AsyncClient, environment: pytest.MonkeyPatch, pgbouncer: bool
) -> None:
    configure(environment, commit_timeout=2, statement_timeout=1, pgbouncer=pgbouncer)
    for statement in SLOW_COMMIT:
        await fetch(statement)

    response = await client.post(USERS, json=user_values())

    assert (is_unavailable(response), problem(response)["detail"]) == (True, UNKNOWN)
    [(number,)] = await fetch(
        "SELECT pid FROM pg_stat_activity "
        "WHERE datname = current_database() AND state = 'active' AND query LIKE 'COMMIT%'"
    )
    await kill(number)


@pytest.mark.postgresql
@pytest.mark.parametrize("is_delivered", [False, True])
async def test_connection_lost_during_commit_returns_503_with_an_unknown_outcome(
    client: AsyncClient, environment: pytest.MonkeyPatch, is_delivered: bool
) -> None:
    async with Proxy(os.environ[variable("primary")]) as proxy:
        set_databases(environment, {"primary": proxy.url})
        proxy.lose(b"COMMIT", is_delivered=is_delivered)

        response = await client.post(USERS, json=user_values())

        assert problem(response)["detail"] == UNKNOWN
        await dispose_engines()


@pytest.mark.postgresql
async def test_connection_lost_during_commit_after_a_stream_returns_503_with_an_unknown_outcome(
    app: FastAPI, client: AsyncClient, environment: pytest.MonkeyPatch
) -> None:
    """The connection of a stream is released when it is lost. The error stays that of COMMIT."""

    @app.post("/write")
    async def write(session: SessionDep) -> None:
        many = text("SELECT n FROM generate_series(1, 1000) n")
        await (await session.stream(many.execution_options(yield_per=10))).fetchone()
        session.add(new_user())

    async with Proxy(os.environ[variable("primary")]) as proxy:
        set_databases(environment, {"primary": proxy.url})
        proxy.lose(b"COMMIT", is_delivered=True)

        response = await client.post("/write")

        assert problem(response)["detail"] == UNKNOWN
        await dispose_engines()


@pytest.mark.postgresql
async def test_503_after_a_commit_by_hand_does_not_promise_that_nothing_was_stored(
    app: FastAPI, client: AsyncClient, environment: pytest.MonkeyPatch
) -> None:
    configure(environment, lock_timeout=0.1)

    @app.post("/write")
    async def write(session: SessionDep) -> None:
        session.add(new_user())
        await session.commit()
        async with session_scope() as other:
            for one in (other, session):
                await one.execute(text("LOCK TABLE users"))

    response = await client.post("/write")

    assert is_unavailable(response)
    assert await stored_users() == 1
    detail = "Another transaction was in the way. Earlier commits of this request stay stored."
    assert problem(response)["detail"] == detail
