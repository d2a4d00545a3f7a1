"""What the server is told, and what it answers: limits, conflicts, its SQLSTATEs."""

import asyncio
import os
import socket
import traceback

import pytest
from fastapi import FastAPI
from httpx2 import AsyncClient
from sqlalchemy import make_url, select, text
from sqlalchemy.exc import DBAPIError, OperationalError
from sqlalchemy.ext.asyncio import AsyncSession

from app import NAME
from app.core.config import variable
from app.core.db import dispose_engines, session_scope
from app.core.web.problem_details import OVERLOADED, REJECTED, UNAVAILABLE, problem_of
from app.dependencies import SessionDep
from app.models import User
from tests.conformance.harness.proxy import Proxy
from tests.inspection import driver, fetch, kill, observer, pid, stored_users, until_closed
from tests.support import configure, new_email, new_user, set_databases

pytestmark = pytest.mark.postgresql


# Several servers


async def test_url_finds_the_one_of_several_servers_that_accepts_writes(
    databases: None, environment: pytest.MonkeyPatch
) -> None:
    configure(environment, connect_timeout=0.2)
    here = os.environ[variable("primary")]
    async with Proxy(here) as proxy, Proxy(here) as silent:
        silent.hold()
        nobody = make_url(silent.url)
        there = make_url(proxy.url)
        url = there.set(host=None, port=None).update_query_dict(
            {
                "host": (
                    "127.0.0.1:1",
                    f"{nobody.host}:{nobody.port}",
                    f"{there.host}:{there.port}",
                ),
                "target_session_attrs": "read-write",
            }
        )
        set_databases(environment, {"primary": url.render_as_string(hide_password=False)})

        async with session_scope() as session:
            assert await session.scalar(text("SHOW transaction_read_only")) == "off"
        await dispose_engines()


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
@pytest.mark.parametrize(
    ("query", "name"), [("", NAME), ("?application_name=ours", "ours")], ids=["setting", "url"]
)
async def test_server_knows_who_is_connected(
    databases: None, environment: pytest.MonkeyPatch, query: str, name: str
) -> None:
    url = make_url(os.environ[variable("primary")]).update_query_string(query[1:])
    set_databases(environment, {"primary": url.render_as_string(hide_password=False)})

    async with session_scope() as session:
        assert await session.scalar(text("SHOW application_name")) == name


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


@pytest.mark.skipif(not hasattr(socket, "TCP_USER_TIMEOUT"), reason="only Linux has all of them")
async def test_both_sides_notice_that_the_other_one_is_gone(
    databases: None, environment: pytest.MonkeyPatch
) -> None:
    configure(environment, tcp_keepalive=10)
    async with Proxy(os.environ[variable("primary")]) as proxy:
        set_databases(environment, {"primary": proxy.url})
        async with session_scope() as session:
            ours = (await driver(session))._transport.get_extra_info("socket")
            options = ("TCP_KEEPIDLE", "TCP_KEEPINTVL", "TCP_KEEPCNT", "TCP_USER_TIMEOUT")
            here = [ours.getsockopt(socket.IPPROTO_TCP, getattr(socket, o)) for o in options]
            asks = ours.getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE)
            # What the server was told: over a socket of Unix, which knows of none, it shows zero.
            told = await session.execute(
                text(
                    "SELECT name, source FROM pg_settings "
                    "WHERE name LIKE 'tcp\\_%' AND source = 'client'"
                )
            )
            names = {row.name for row in told}
        await dispose_engines()

    assert (1, [10, 4, 3, 20_000]) == (asks, here)
    assert names == {
        "tcp_keepalives_count",
        "tcp_keepalives_idle",
        "tcp_keepalives_interval",
        "tcp_user_timeout",
    }


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


@pytest.mark.parametrize("read_only", [False, True])
async def test_error_in_the_middle_of_a_stream_is_that_of_the_database(
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

    assert problem_of(caught.value) is OVERLOADED


async def test_value_in_the_error_of_a_stream_is_not_shown(databases: None) -> None:
    secret = new_email()
    with pytest.raises(DBAPIError) as caught:
        async with session_scope() as session:
            numbers = text("SELECT CAST(s AS int) FROM (VALUES ('1'), (:second)) t (s)")
            options = {"yield_per": 1}
            rows = await session.stream(numbers, {"second": secret}, execution_options=options)
            await rows.all()

    assert problem_of(caught.value) is REJECTED
    assert secret not in "".join(traceback.format_exception(caught.value))


async def test_connection_that_dies_in_the_middle_of_a_stream_is_an_outage(databases: None) -> None:
    with pytest.raises(OperationalError) as caught:
        async with session_scope() as session:
            number = await pid(session)
            many = text("SELECT n FROM generate_series(1, 100000) n")
            rows = await session.stream(many.execution_options(yield_per=10))
            async for _ in rows:
                await kill(number)
                number = 0

    assert problem_of(caught.value) is UNAVAILABLE


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


# A migration while the service runs


async def test_type_that_a_migration_changes_is_an_answer_to_try_again(
    app: FastAPI, client: AsyncClient, single: None
) -> None:
    await client.get("/users")
    async with observer() as connection:
        await connection.execute(text("ALTER TABLE users ALTER COLUMN name TYPE text"))

    answers = [await client.get("/users") for _ in range(2)]

    assert [(503, "1"), (200, None)] == [
        (answer.status_code, answer.headers.get("retry-after")) for answer in answers
    ]


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
