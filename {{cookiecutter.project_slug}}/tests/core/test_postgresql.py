"""What the server is told, and what it answers: limits, conflicts, its SQLSTATEs."""

import asyncio

import pytest
from fastapi import FastAPI
from httpx2 import AsyncClient
from sqlalchemy import select, text
from sqlalchemy.ext.asyncio import AsyncSession

from app.core.db import session_scope
from app.dependencies import SessionDep
from app.models import User
from tests.inspection import fetch, pid, stored_users, until_closed
from tests.support import configure, new_user

pytestmark = pytest.mark.postgresql


# Limits


@pytest.mark.pgbouncer
async def test_server_keeps_the_limits_of_the_settings(
    databases: None, environment: pytest.MonkeyPatch
) -> None:
    configure(environment, statement_timeout=1.5, lock_timeout=2, idle_in_transaction_timeout=0)

    async with session_scope() as session:
        limits = [
            await session.scalar(text(f"SHOW {name}"))
            for name in ("statement_timeout", "lock_timeout", "idle_in_transaction_session_timeout")
        ]

    assert ["1500ms", "2s", "0"] == limits


@pytest.mark.pgbouncer
async def test_statement_that_takes_too_long_is_an_answer_to_try_again(
    app: FastAPI, client: AsyncClient, environment: pytest.MonkeyPatch
) -> None:
    configure(environment, statement_timeout=0.05)

    @app.get("/slow")
    async def slow(session: SessionDep) -> None:
        await session.execute(text("SELECT pg_sleep(60)"))

    answer = await client.get("/slow")

    assert (503, "1") == (answer.status_code, answer.headers["retry-after"])


@pytest.mark.pgbouncer
async def test_transaction_that_does_nothing_for_too_long_is_given_up(
    app: FastAPI, server: AsyncClient, environment: pytest.MonkeyPatch
) -> None:
    configure(environment, idle_in_transaction_timeout=0.05)

    @app.post("/idle")
    async def idle(session: SessionDep) -> None:
        session.add(new_user())
        await session.flush()
        await until_closed(await pid(session))

    assert (await server.post("/idle")).status_code == 503
    assert await stored_users() == 0


# Transactions that get in each other's way


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


async def test_serialization_failure_is_an_answer_to_try_again(
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

    answer = await server.post("/rename")

    assert (503, "1") == (answer.status_code, answer.headers["retry-after"])
    assert await names() == {"first", "Bob"}


async def test_deadlock_is_an_answer_to_try_again_for_one_and_success_for_the_other(
    app: FastAPI, server: AsyncClient, two_users: list[User]
) -> None:
    both = asyncio.Barrier(2)

    @app.post("/rename/{first}/{name}")
    async def rename_both(session: SessionDep, first: int, name: str) -> None:
        await rename(session, two_users[first], name)
        await both.wait()
        await rename(session, two_users[1 - first], name)

    answers = await asyncio.gather(server.post("/rename/0/x"), server.post("/rename/1/y"))

    assert [200, 503] == sorted(answer.status_code for answer in answers)
    [refused] = [answer for answer in answers if answer.status_code == 503]
    assert refused.headers["retry-after"] == "1"
    assert await names() == ({"x"} if answers[0].status_code == 200 else {"y"})


# What the server says, and what is answered

ANSWERS = {
    "08006": 503,  # connection failure
    "22001": 422,  # value too long
    "23P01": 409,  # exclusion violation
    "40001": 503,  # serialization failure
    "53200": 503,  # out of memory
    "55P03": 503,  # lock not available
    "57P03": 503,  # cannot connect now
    "XX000": 500,  # a fault of its own
}


@pytest.mark.parametrize(("sqlstate", "status"), ANSWERS.items())
async def test_error_of_the_server_has_its_status(
    app: FastAPI, client: AsyncClient, sqlstate: str, status: int
) -> None:
    @app.get("/error")
    async def error(session: SessionDep) -> None:
        body = f"BEGIN RAISE EXCEPTION 'hidden' USING ERRCODE = '{sqlstate}'; END"
        await session.execute(text(f"DO $${body}$$"))

    answer = await client.get("/error")

    assert answer.status_code == status
    assert "hidden" not in answer.text
