"""What the page on transactions says beyond what its snippets print."""

import asyncio
import os
from collections.abc import Awaitable, Callable
from typing import Any
from uuid import UUID

import asyncpg
import pytest
from fastapi import FastAPI
from httpx2 import AsyncClient
from sqlalchemy import func, insert, select, text, update
from sqlalchemy.exc import ArgumentError, DBAPIError, OperationalError, SAWarning
from sqlalchemy.ext.asyncio import AsyncSession

from app.core.config import variable
from app.core.db import dispose_engines, session_scope
from app.core.errors import problem_of
from app.models import User, base
from tests.docs.conftest import Load
from tests.harness.proxy import Proxy
from tests.inspection import driver, kill, nobody_is_connected, pid, stored_users, until_closed
from tests.support import configure, create_tables, new_user, problem, set_databases, until

LEVEL = text("SHOW transaction_isolation")


async def add_users(*names: str) -> list[User]:
    users = [new_user(name) for name in names]
    async with session_scope() as session:
        session.add_all(users)
    return users


# Isolation levels


@pytest.mark.postgresql
@pytest.mark.pgbouncer
async def test_level_of_a_request_leaves_its_connection_with_it(
    app: FastAPI, client: AsyncClient, single: None, load: Load
) -> None:
    app.include_router(load("an isolation level").router)

    levels = [(await client.get(path)).json() for path in ("/usual", "/strict", "/usual")]

    assert levels == ["read committed", "serializable", "read committed"]


@pytest.mark.postgresql
async def test_level_of_the_connection_meets_the_next_session(single: None) -> None:
    async with session_scope() as session:
        await session.execute(
            text("SET SESSION CHARACTERISTICS AS TRANSACTION ISOLATION LEVEL SERIALIZABLE")
        )

    async with session_scope() as session:
        assert await session.scalar(LEVEL) == "serializable"


@pytest.mark.postgresql
async def test_level_after_the_first_statement_is_ignored(databases: None) -> None:
    async with session_scope() as session:
        await session.execute(text("SELECT 1"))
        with pytest.warns(SAWarning, match="execution_options ignored"):
            await session.connection(execution_options={"isolation_level": "SERIALIZABLE"})

        assert await session.scalar(LEVEL) == "read committed"


@pytest.mark.sqlite
async def test_sqlite_refuses_a_level_that_it_does_not_know(databases: None) -> None:
    async with session_scope() as session:
        with pytest.raises(ArgumentError, match="REPEATABLE READ"):
            await session.connection(execution_options={"isolation_level": "REPEATABLE READ"})


# Another attempt


@pytest.mark.postgresql
async def test_both_leave_where_no_level_is_asked_for(databases: None) -> None:
    users = await add_users("on call", "on call")
    on_call = select(func.count(User.id)).where(User.name == "on call")
    both_have_read = asyncio.Barrier(2)

    async def leave(user: User) -> None:
        async with session_scope() as session:
            count = await session.scalar(on_call)
            await both_have_read.wait()
            if count == 2:
                await session.execute(update(User).where(User.id == user.id).values(name="free"))

    await asyncio.gather(*map(leave, users))

    async with session_scope() as session:
        assert await session.scalar(on_call) == 0


def failing(error: str) -> Callable[[AsyncSession], Awaitable[None]]:
    async def work(session: AsyncSession) -> None:
        session.add(new_user())
        await session.flush()
        await session.execute(text(f"DO $$ BEGIN RAISE {error}; END $$"))

    return work


@pytest.mark.postgresql
@pytest.mark.parametrize(
    ("error", "attempts"),
    [("serialization_failure", 3), ("deadlock_detected", 3), ("unique_violation", 1)],
)
async def test_attempts_are_bounded_and_only_some_errors_lead_to_another_one(
    load: Load, error: str, attempts: int
) -> None:
    made: list[AsyncSession] = []
    work = failing(error)

    async def count(session: AsyncSession) -> None:
        made.append(session)
        await work(session)

    with pytest.raises(DBAPIError):
        await load("try again").in_transaction(count, attempts=3)

    assert attempts == len({*map(id, made)})
    assert await stored_users() == 0


# Locks


@pytest.mark.postgresql
async def test_lock_does_not_read_anew_what_the_session_knows(load: Load) -> None:
    [ada] = await add_users("Ada")
    async with session_scope() as session:
        known = await session.get_one(User, ada.id)
        async with session_scope() as other:
            await other.execute(update(User).values(name="Countess"))

        await session.scalars(select(User).with_for_update())
        assert known.name == "Ada"
        await load("lock users").lock_users(session, ada.id)
        assert known.name == "Countess"


@pytest.mark.postgresql
async def test_workers_of_a_queue_take_different_users_and_wait_for_nobody(load: Load) -> None:
    await add_users("Ada", "Bob")
    take_one = load("a queue").take_one

    async with session_scope() as first, session_scope() as second, session_scope() as third:
        taken = [await take_one(session) for session in (first, second, third)]
        with pytest.raises(DBAPIError) as caught:
            await third.scalar(select(User).with_for_update(nowait=True))
        await third.rollback()

    assert {user and user.name for user in taken} == {"Ada", "Bob", None}
    assert problem_of(caught.value).status == 503


# Idempotency keys

ADA = {"name": "Ada", "email": "ada@example.com"}
BOB = {"name": "Bob", "email": "bob@example.com"}
KEY = {"Idempotency-Key": "4b9f"}


@pytest.fixture
async def signups(app: FastAPI, server: AsyncClient, load: Load) -> AsyncClient:
    app.include_router(load("an idempotency key").router)
    await create_tables(base.PrimaryBase)
    await dispose_engines()
    return server


async def test_request_that_comes_five_times_at_once_is_done_once(signups: AsyncClient) -> None:
    requests = (signups.post("/signups", json=ADA, headers=KEY) for _ in range(5))
    answers = await asyncio.gather(*requests)

    assert {201} == {answer.status_code for answer in answers}
    assert len({answer.text for answer in answers}) == 1
    assert await stored_users() == 1


async def test_key_of_another_request_is_refused(signups: AsyncClient) -> None:
    await signups.post("/signups", json=ADA, headers=KEY)

    assert problem(await signups.post("/signups", json=BOB, headers=KEY))["status"] == 422
    assert await stored_users() == 1


async def test_error_is_not_kept(signups: AsyncClient) -> None:
    taken = (await signups.post("/users", json=ADA)).json()
    assert (await signups.post("/signups", json=ADA, headers=KEY)).status_code == 409
    await signups.delete(f"/users/{taken['id']}")

    assert (await signups.post("/signups", json=ADA, headers=KEY)).status_code == 201


@pytest.mark.postgresql
@pytest.mark.parametrize("is_delivered", [False, True])
async def test_request_whose_commit_was_lost_is_done_once(
    signups: AsyncClient, environment: pytest.MonkeyPatch, is_delivered: bool
) -> None:
    async with Proxy(os.environ[variable("primary")]) as proxy:
        set_databases(environment, {"primary": proxy.url})
        proxy.lose(b"COMMIT", is_delivered=is_delivered)
        assert (await signups.post("/signups", json=ADA, headers=KEY)).status_code == 503
        await until(nobody_is_connected)
        assert await stored_users() == is_delivered

        answer = await signups.post("/signups", json=ADA, headers=KEY)

        assert answer.status_code == 201
        assert answer.json() == (await signups.get(f"/users/{answer.json()['id']}")).json()
        assert await stored_users() == 1
        await dispose_engines()


# Advisory locks


@pytest.mark.postgresql
async def test_lock_of_a_connection_outlives_its_session_and_that_of_a_transaction_does_not(
    databases: None,
) -> None:
    def lock(function: str) -> Any:
        return text(f"SELECT {function}(1), pg_backend_pid()")

    async with session_scope() as session:
        _, holder = (await session.execute(lock("pg_try_advisory_xact_lock"))).one()
    async with session_scope() as first, session_scope() as second:
        assert await first.scalar(lock("pg_try_advisory_lock"))
        assert not await second.scalar(lock("pg_try_advisory_lock"))

    async with session_scope() as first, session_scope() as second:
        got = {(await s.execute(lock("pg_try_advisory_lock"))).one() for s in (first, second)}

    assert {is_locked for is_locked, _ in got} == {True, False}
    assert (True, holder) in got  # it has it still, for whoever comes


@pytest.mark.postgresql
async def test_lock_is_free_when_its_process_has_died(load: Load) -> None:
    alone = load("an advisory lock").alone

    async def die(session: AsyncSession) -> None:
        await kill(await pid(session))
        await session.execute(text("SELECT 1"))

    async def work(session: AsyncSession) -> None:
        await session.execute(text("SELECT 1"))

    with pytest.raises(OperationalError):
        await alone("clean up", die)

    assert await alone("clean up", work)


# Many rows

USERS = [(f"Ada {n}", f"{n}@example.com") for n in range(100)]


@pytest.mark.postgresql
@pytest.mark.pgbouncer
async def test_copy_is_part_of_the_transaction(load: Load) -> None:
    copy_users = load("copy").copy_users

    async with session_scope() as session:
        await copy_users(session, USERS)
        await session.rollback()
    assert await stored_users() == 0

    async with session_scope() as session:
        await copy_users(session, USERS)
    assert await stored_users() == 100


@pytest.mark.postgresql
async def test_copy_without_a_statement_before_it_is_committed_by_itself(databases: None) -> None:
    async with session_scope() as session:
        await (await driver(session)).copy_records_to_table(
            "users",
            columns=["id", "name", "email", "version", "created_at"],
            records=[(UUID(int=1), "Ada", "ada@example.com", 1, base.utc_now())],
        )
        await session.rollback()

    assert await stored_users() == 1


@pytest.mark.postgresql
async def test_error_of_copy_is_one_of_the_driver(load: Load) -> None:
    with pytest.raises(asyncpg.UniqueViolationError) as caught:
        async with session_scope() as session:
            await load("copy").copy_users(session, [*USERS, *USERS])

    assert problem_of(caught.value).status == 500
    assert await stored_users() == 0


# Exports


@pytest.fixture
async def many_users(databases: None) -> None:
    users = [{"name": "Ada", "email": f"{n}@example.com"} for n in range(2_500)]
    async with session_scope() as session:
        await session.execute(insert(User), users)


async def test_export_has_what_was_committed_when_it_began(many_users: None, load: Load) -> None:
    pieces = load("an export").export_users()
    first = await anext(pieces)
    await add_users("late")
    others = [piece async for piece in pieces]

    assert [1000, 1000, 500] == [piece.count(b"\n") for piece in (first, *others)]
    assert not any(b"late" in piece for piece in others)


async def test_export_has_a_line_for_each_user(
    app: FastAPI, server: AsyncClient, many_users: None, load: Load
) -> None:
    app.include_router(load("an export").router)

    answer = await server.get("/user-export")

    assert answer.headers["content-type"] == "application/x-ndjson"
    assert answer.text.count("\n") == 2_500


@pytest.mark.postgresql
async def test_statement_timeout_is_one_of_each_piece(
    environment: pytest.MonkeyPatch, many_users: None, load: Load
) -> None:
    configure(environment, statement_timeout=0.5)
    pieces = load("an export").export_users()
    await anext(pieces)

    await asyncio.sleep(0.6)

    assert len([piece async for piece in pieces]) == 2


@pytest.mark.postgresql
async def test_export_that_nobody_reads_is_cut_off(
    environment: pytest.MonkeyPatch, many_users: None, load: Load
) -> None:
    configure(environment, idle_in_transaction_timeout=0.05)
    statement = load("an export").ALL.execution_options(yield_per=1_000)

    with pytest.raises((asyncpg.InterfaceError, OperationalError)):
        async with session_scope(read_only=True) as session:
            partitions = (await session.stream(statement)).partitions()
            await anext(partitions)
            await until_closed((await driver(session)).get_server_pid())
            await anext(partitions)
