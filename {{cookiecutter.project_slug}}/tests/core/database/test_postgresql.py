"""What the server is told, and what it answers: limits, conflicts, its SQLSTATEs."""

import asyncio
import os

import pytest
from fastapi import FastAPI
from httpx2 import AsyncClient
from sqlalchemy import select, text
from sqlalchemy.ext.asyncio import AsyncSession

from app.core.config import variable
from app.core.db import session_scope
from app.dependencies import SessionDep
from app.models import User
from tests.harness.proxy import Proxy
from tests.inspection import fetch
from tests.support import configure, new_user, set_databases

pytestmark = pytest.mark.postgresql


async def test_server_that_does_not_answer_is_given_up(
    client: AsyncClient, environment: pytest.MonkeyPatch
) -> None:
    configure(environment, connect_timeout=0.1)
    async with Proxy(os.environ[variable("primary")]) as proxy:
        proxy.hold()
        set_databases(environment, {"primary": proxy.url})

        async with asyncio.timeout(2):
            answer = await client.get("/users")

    assert (503, "1") == (answer.status_code, answer.headers["retry-after"])


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


# What the server says, and what is answered

ANSWERS = {
    "08006": 503,  # connection failure
    "22001": 422,  # value too long
    "23001": 409,  # restrict violation
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
