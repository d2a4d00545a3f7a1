"""What core/postgresql.py promises: an honest COMMIT, no dead connection, limits that the server keeps."""

import asyncio
import os
import threading
from typing import Any

import asyncpg
import pytest
from fastapi import FastAPI
from httpx2 import AsyncClient
from sqlalchemy import make_url, select, text
from sqlalchemy.exc import DBAPIError, OperationalError
from sqlalchemy.ext.asyncio import AsyncSession

from app.core.config import get_settings, variable
from app.core.db import dispose_engines, session_scope
from app.core.errors import TransactionFailedError
from app.dependencies import SessionDep
from app.models import User
from tests.harness.proxy import Proxy
from tests.support import (
    fetch,
    new_user,
    nobody_is_connected,
    set_databases,
    stored_users,
    until,
)

pytestmark = pytest.mark.postgresql


def configure(environment: pytest.MonkeyPatch, **settings: object) -> None:
    """Set these settings of the primary database."""
    for name, value in settings.items():
        environment.setenv(variable("primary", name), str(value))
    get_settings.cache_clear()


@pytest.fixture
def single(environment: pytest.MonkeyPatch, databases: None) -> None:
    """One connection, so that the next session meets what the last one has left of it."""
    configure(environment, pool_size=1, pool_timeout=1)


async def pid(session: AsyncSession) -> int:
    """Return the number of the server's process behind the session."""
    return int(await session.scalar(text("SELECT pg_backend_pid()")) or 0)


async def kill(*pids: int) -> None:
    """Let the server close these connections, and wait until it has."""
    numbers = ", ".join(map(str, pids))
    await fetch(f"SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE pid IN ({numbers})")
    await until_closed(*pids)


async def until_closed(*pids: int) -> None:
    """Wait until the server has closed these connections."""
    numbers = ", ".join(map(str, pids))

    async def gone() -> bool:
        return not await fetch(f"SELECT 1 FROM pg_stat_activity WHERE pid IN ({numbers})")

    await until(gone)


async def driver(session: AsyncSession) -> Any:
    """Return asyncpg's connection, past which SQLAlchemy sees nothing."""
    return (await (await session.connection()).get_raw_connection()).driver_connection


async def fail() -> None:
    raise LookupError


# A COMMIT that the server answers with ROLLBACK


async def fail_in_a_statement(session: AsyncSession) -> None:
    await session.execute(text("SELECT 1 / 0"))


async def fail_in_the_driver(session: AsyncSession) -> None:
    await (await driver(session)).fetch("SELECT 1 / 0")


async def fail_in_a_copy(session: AsyncSession) -> None:
    await (await driver(session)).copy_records_to_table("users", records=[], columns=["nothing"])


@pytest.mark.parametrize("failing", [fail_in_a_statement, fail_in_the_driver, fail_in_a_copy])
async def test_error_that_is_swallowed_makes_the_commit_fail(single: None, failing: Any) -> None:
    with pytest.raises(TransactionFailedError):
        async with session_scope() as session:
            session.add(new_user())
            await session.flush()
            with pytest.raises((DBAPIError, asyncpg.PostgresError)):
                await failing(session)

    assert await stored_users() == 0
    async with session_scope() as session:
        session.add(new_user())
    assert await stored_users() == 1


async def test_session_is_usable_after_a_commit_that_the_server_has_refused(single: None) -> None:
    async with session_scope() as session:
        session.add(new_user())
        await session.flush()
        with pytest.raises(DBAPIError):
            await fail_in_a_statement(session)
        with pytest.raises(TransactionFailedError):
            await session.commit()
        await session.rollback()
        session.add(new_user())

    assert await stored_users() == 1


async def test_error_may_be_swallowed_within_a_savepoint(single: None) -> None:
    async with session_scope() as session:
        session.add(new_user())
        with pytest.raises(DBAPIError):
            async with session.begin_nested():
                await fail_in_a_statement(session)

    assert await stored_users() == 1


# Connections that die while a session has them


async def test_error_is_raised_unchanged_though_the_connection_is_dead(single: None) -> None:
    raised = KeyError("mine")

    with pytest.raises(KeyError) as caught:
        async with session_scope() as session:
            session.add(new_user())
            await session.flush()
            await kill(await pid(session))
            raise raised

    assert caught.value is raised
    await until(nobody_is_connected)
    async with session_scope() as session:
        session.add(new_user())
    assert await stored_users() == 1


async def die_before_a_statement(session: AsyncSession) -> None:
    await kill(await pid(session))
    await session.execute(text("SELECT 1"))


async def die_in_a_statement(session: AsyncSession) -> None:
    number = await pid(session)
    sleep = asyncio.create_task(session.execute(text("SELECT pg_sleep(60)")))
    await until_it_is_active(number)
    await kill(number)
    await sleep


async def die_before_the_commit(session: AsyncSession) -> None:
    await kill(await pid(session))


DEATHS = [die_before_a_statement, die_in_a_statement, die_before_the_commit]


@pytest.mark.parametrize("die", DEATHS)
async def test_connection_that_dies_is_an_operational_error(single: None, die: Any) -> None:
    with pytest.raises(OperationalError):
        async with session_scope() as session:
            session.add(new_user())
            await session.flush()
            await die(session)

    assert await stored_users() == 0


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
    assert (await server.get("/users")).status_code == 200


# Connections that a task still uses


async def test_connection_that_a_task_uses_when_a_block_ends_well_is_dropped(single: None) -> None:
    with pytest.raises(DBAPIError):
        async with session_scope() as session:
            number = await pid(session)
            task = asyncio.create_task(session.execute(text("SELECT pg_sleep(60)")))
            await until_it_is_active(number)

    await assert_next_session_works(number)
    await asyncio.gather(task, return_exceptions=True)


async def test_connection_that_a_task_uses_when_a_block_fails_is_dropped(single: None) -> None:
    with pytest.raises(LookupError):
        async with session_scope() as session:
            session.add(new_user())
            number = await pid(session)
            await asyncio.gather(session.execute(text("SELECT pg_sleep(60)")), fail())

    await assert_next_session_works(number)


async def until_it_is_active(number: int) -> None:
    async def active() -> bool:
        [(state,)] = await fetch(f"SELECT state FROM pg_stat_activity WHERE pid = {number}")
        return bool(state == "active")

    await until(active)


async def assert_next_session_works(last: int) -> None:
    """Use a session, and end what the server still does for the last one."""
    async with session_scope() as session:
        session.add(new_user())
        assert await pid(session) != last
    assert await stored_users() == 1
    await kill(last)


# Connections that die in the pool


async def fill_pool(size: int) -> list[int]:
    """Let the pool have this many idle connections; return the numbers of their processes."""
    ready = asyncio.Barrier(size)

    async def use() -> int:
        async with session_scope() as session:
            number = await pid(session)
            await ready.wait()
            return number

    return await asyncio.gather(*(use() for _ in range(size)))


async def test_no_request_meets_a_connection_that_the_server_has_closed(
    app: FastAPI, server: AsyncClient
) -> None:
    await kill(*await fill_pool(5))

    answers = await asyncio.gather(*(server.get("/users") for _ in range(10)))

    assert {200} == {answer.status_code for answer in answers}


async def test_no_request_meets_it_even_if_the_loop_has_not_heard_of_it(databases: None) -> None:
    pids = await fill_pool(5)
    killing = threading.Thread(target=lambda: asyncio.run(kill(*pids)))
    killing.start()
    killing.join()  # and this loop stands still

    for _ in range(5):
        async with session_scope() as session:
            assert await pid(session) not in pids


async def test_connection_that_a_network_has_silently_cut_is_replaced(
    databases: None, environment: pytest.MonkeyPatch
) -> None:
    environment.setattr("app.core.postgresql.IDLE_BEFORE_PING", 0.0)
    environment.setattr("app.core.postgresql.PING_TIMEOUT", 0.2)
    async with Proxy(os.environ[variable("primary")]) as proxy:
        set_databases(environment, {"primary": proxy.url})
        async with session_scope() as session:
            before = await pid(session)
        proxy.cut()

        async with asyncio.timeout(1.5):  # a good-bye that is answered by nobody takes 2 seconds
            async with session_scope() as session:
                assert await pid(session) != before
        await dispose_engines()


# Connections that cannot be made


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


# Limits


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


async def test_statement_that_takes_too_long_is_an_answer_to_try_again(
    app: FastAPI, client: AsyncClient, environment: pytest.MonkeyPatch
) -> None:
    configure(environment, statement_timeout=0.05)

    @app.get("/slow")
    async def slow(session: SessionDep) -> None:
        await session.execute(text("SELECT pg_sleep(60)"))

    answer = await client.get("/slow")

    assert (503, "1") == (answer.status_code, answer.headers["retry-after"])


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


# Read-only


async def test_read_only_session_waits_in_no_transaction(databases: None) -> None:
    async with session_scope(read_only=True) as session:
        number = await pid(session)
        [(state,)] = await fetch(f"SELECT state FROM pg_stat_activity WHERE pid = {number}")

        assert await session.scalar(text("SHOW default_transaction_read_only")) == "on"

    assert state == "idle"


# PgBouncer in transaction mode


@pytest.fixture
def pgbouncer(environment: pytest.MonkeyPatch, single: None) -> None:
    configure(environment, pgbouncer=True)


async def prepared_statements(session: AsyncSession) -> set[str]:
    """Return the names of those that the connection knows: this one, and those that it keeps."""
    return set(await session.scalars(text("SELECT name FROM pg_prepared_statements")))


async def test_nothing_is_set_or_kept_for_pgbouncer(pgbouncer: None) -> None:
    async with session_scope() as session:
        for n in range(2):
            await session.scalars(select(User))
            await (await driver(session)).fetch("SELECT $1::integer", n)

        ours = "SELECT count(*) FROM pg_settings WHERE source = 'client' AND name LIKE '%timeout'"
        assert await session.scalar(text(ours)) == 0
        assert len(await prepared_statements(session)) == 1


async def test_no_two_connections_through_pgbouncer_give_a_statement_the_same_name(
    pgbouncer: None,
) -> None:
    async with session_scope() as session:
        one = await prepared_statements(session)
    await dispose_engines()
    async with session_scope() as session:
        other = await prepared_statements(session)

    assert one
    assert not one & other


async def test_read_only_session_is_refused_a_write_through_pgbouncer(pgbouncer: None) -> None:
    async with session_scope(read_only=True) as session:
        assert await session.scalar(text("SHOW transaction_read_only")) == "on"

    with pytest.raises(DBAPIError, match="read-only"):
        async with session_scope(read_only=True) as session:
            session.add(new_user())


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
