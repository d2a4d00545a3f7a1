"""Errors of PostgreSQL: the response to each SQLSTATE, conflicts, streams, hidden values."""

import asyncio
import os
import traceback

import pytest
from fastapi import FastAPI
from httpx2 import AsyncClient
from sqlalchemy import select, text
from sqlalchemy.exc import DBAPIError, OperationalError, PendingRollbackError
from sqlalchemy.ext.asyncio import AsyncSession

from app.core.config import variable
from app.core.db import dispose_engines, session_scope
from app.core.web.problem_details import OVERLOADED, REJECTED, UNAVAILABLE, problem_for
from app.dependencies import SessionDep
from app.models import User
from tests.conformance.harness.proxy import Proxy
from tests.inspection import checked_out, fetch, kill, observer, pid, until_active
from tests.support import USERS, configure, new_email, new_user, set_databases, until

pytestmark = pytest.mark.postgresql

STATUSES = {
    "08006": 503,  # connection failure
    "22001": 422,  # value too long
    "23001": 409,  # restrict violation
    "23P01": 409,  # exclusion violation
    "40001": 503,  # serialization failure
    "53200": 503,  # out of memory
    "55P03": 503,  # lock not available
    "57P03": 503,  # cannot connect now
    "XX000": 500,  # internal error
}


async def test_sqlstate_has_its_status(app: FastAPI, client: AsyncClient) -> None:
    @app.get("/error/{sqlstate}")
    async def error(session: SessionDep, sqlstate: str) -> None:
        body = f"BEGIN RAISE EXCEPTION 'hidden' USING ERRCODE = '{sqlstate}'; END"
        await session.execute(text(f"DO $${body}$$"))

    responses = {sqlstate: await client.get(f"/error/{sqlstate}") for sqlstate in STATUSES}

    assert STATUSES == {state: response.status_code for state, response in responses.items()}
    assert not [state for state, response in responses.items() if "hidden" in response.text]


# Streams


@pytest.mark.parametrize("read_only", [False, True])
async def test_statement_timeout_in_a_stream_is_a_database_error(
    databases: None, environment: pytest.MonkeyPatch, read_only: bool
) -> None:
    configure(environment, statement_timeout=0.2)
    slow = text(
        "SELECT n, pg_sleep(CASE n WHEN 100 THEN 60 ELSE 0 END) FROM generate_series(1, 100) n"
    )
    with pytest.raises(DBAPIError) as caught:
        async with session_scope(read_only=read_only) as session:
            rows = await session.stream(slow.execution_options(yield_per=10))
            await rows.all()

    assert problem_for(caught.value) is OVERLOADED


async def test_error_of_a_stream_does_not_contain_the_value(databases: None) -> None:
    secret = new_email()
    with pytest.raises(DBAPIError) as caught:
        async with session_scope() as session:
            numbers = text("SELECT CAST(s AS int) FROM (VALUES ('1'), (:second)) t (s)")
            options = {"yield_per": 1}
            rows = await session.stream(numbers, {"second": secret}, execution_options=options)
            await rows.all()

    assert problem_for(caught.value) is REJECTED
    assert secret not in "".join(traceback.format_exception(caught.value))


@pytest.mark.parametrize("read_only", [False, True])
@pytest.mark.parametrize("goes_on", [False, True])
async def test_connection_lost_in_a_stream_is_an_outage(
    databases: None, read_only: bool, goes_on: bool
) -> None:
    with pytest.raises((OperationalError, PendingRollbackError)) as caught:
        async with session_scope(read_only=read_only) as session:
            number = await pid(session)
            many = text("SELECT n FROM generate_series(1, 100000) n")
            rows = await session.stream(many.execution_options(yield_per=10))
            await rows.fetchone()
            await kill(number)
            await (rows.all() if goes_on else session.execute(many))

    assert problem_for(caught.value) is UNAVAILABLE


@pytest.mark.parametrize("read_only", [False, True])
async def test_connection_ended_but_not_closed_in_a_stream_is_an_outage(
    databases: None, environment: pytest.MonkeyPatch, read_only: bool
) -> None:
    """PostgreSQL sends a message, and some milliseconds later it closes the socket."""
    async with Proxy(os.environ[variable("primary")]) as proxy:
        set_databases(environment, {"primary": proxy.url})
        with pytest.raises(OperationalError) as caught:
            async with session_scope(read_only=read_only) as session:
                number = await pid(session)
                many = text("SELECT n FROM generate_series(1, 100000) n")
                rows = await session.stream(many.execution_options(yield_per=10))
                await rows.fetchone()
                proxy.keep_open()
                await kill(number)
                await until(lambda: proxy.ended == 1)
                await asyncio.sleep(0)  # this event loop reads the message
                await rows.all()

        assert problem_for(caught.value) is UNAVAILABLE
        assert not checked_out()
        await dispose_engines()


@pytest.mark.parametrize("read_only", [False, True])
async def test_stream_of_a_session_that_has_ended_takes_no_new_connection(
    databases: None, read_only: bool
) -> None:
    slow = text(
        "SELECT n, pg_sleep(CASE n WHEN 100 THEN 60 ELSE 0 END) FROM generate_series(1, 100) n"
    )
    with pytest.raises(KeyError):
        async with session_scope(read_only=read_only) as session:
            number = await pid(session)
            rows = await session.stream(slow.execution_options(yield_per=10))
            reading = asyncio.create_task(rows.all())
            await until_active(number)
            raise KeyError

    with pytest.raises(OperationalError):
        await reading
    assert not checked_out()
    await kill(number)  # the server has not noticed yet that the connection is closed


# Concurrent transactions


@pytest.fixture
async def two_users(databases: None) -> list[User]:
    users = [new_user("Ada"), new_user("Bob")]
    async with session_scope() as session:
        session.add_all(users)
    return users


async def rename(session: AsyncSession, user: User, name: str) -> None:
    await session.execute(
        text("UPDATE users SET name = :name WHERE id = :id"), {"name": name, "id": user.id}
    )


async def names() -> set[str]:
    return {name for (name,) in await fetch("SELECT name FROM users")}


async def test_serialization_failure_returns_503_with_retry_after(
    app: FastAPI, server: AsyncClient, two_users: list[User]
) -> None:
    ada, _ = two_users

    @app.post("/rename")
    async def rename_ada(session: SessionDep) -> None:
        await session.connection(execution_options={"isolation_level": "SERIALIZABLE"})
        await session.scalars(select(User))
        async with session_scope() as other:
            await rename(other, ada, "first")
        await rename(session, ada, "second")

    response = await server.post("/rename")

    assert (503, "1") == (response.status_code, response.headers["retry-after"])
    assert await names() == {"first", "Bob"}


async def test_deadlock_returns_503_to_one_client_and_success_to_the_other(
    app: FastAPI, server: AsyncClient, two_users: list[User]
) -> None:
    both = asyncio.Barrier(2)

    @app.post("/rename/{first}/{name}")
    async def rename_both(session: SessionDep, first: int, name: str) -> None:
        await rename(session, two_users[first], name)
        await both.wait()
        await rename(session, two_users[1 - first], name)

    responses = await asyncio.gather(server.post("/rename/0/x"), server.post("/rename/1/y"))

    assert [200, 503] == sorted(response.status_code for response in responses)
    [refused] = [response for response in responses if response.status_code == 503]
    assert refused.headers["retry-after"] == "1"
    assert await names() == ({"x"} if responses[0].status_code == 200 else {"y"})


async def test_type_changed_by_a_migration_returns_503_once(
    app: FastAPI, client: AsyncClient, single_connection: None
) -> None:
    await client.get(USERS)
    async with observer() as connection:
        await connection.execute(text("ALTER TABLE users ALTER COLUMN name TYPE text"))

    responses = [await client.get(USERS) for _ in range(2)]

    assert [(503, "1"), (200, None)] == [
        (response.status_code, response.headers.get("retry-after")) for response in responses
    ]


async def test_replaced_type_returns_503_once_for_the_whole_pool(
    app: FastAPI, client: AsyncClient
) -> None:
    @app.get("/mood")
    async def mood(session: SessionDep) -> None:
        await session.execute(text("SELECT CAST(:mood AS mood)"), {"mood": "ok"})

    both = asyncio.Barrier(2)

    @app.get("/moods")
    async def moods() -> None:
        async def one() -> None:
            async with session_scope() as session:
                await mood(session)
                await both.wait()

        await asyncio.gather(one(), one())

    await fetch("CREATE TYPE mood AS ENUM ('ok')")
    assert (await client.get("/moods")).status_code == 200
    for statement in ("DROP TYPE mood", "CREATE TYPE mood AS ENUM ('ok', 'happy')"):
        await fetch(statement)

    responses = [await client.get(path) for path in ("/mood", "/mood", "/moods")]

    assert [503, 200, 200] == [response.status_code for response in responses]
    assert responses[0].headers["retry-after"] == "1"
