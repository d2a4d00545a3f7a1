"""What the page on transactions says beyond what its snippets print."""

import asyncio
import os
from collections.abc import Awaitable, Callable
from contextlib import AsyncExitStack, aclosing
from datetime import datetime, timedelta, timezone
from typing import Annotated, Any
from uuid import UUID

import asyncpg
import pytest
from fastapi import Depends, FastAPI
from httpx2 import AsyncClient
from sqlalchemy import event, func, insert, select, text, update
from sqlalchemy.exc import ArgumentError, DBAPIError, IntegrityError, OperationalError, SAWarning
from sqlalchemy.ext.asyncio import AsyncSession
from sqlalchemy.orm import DeclarativeBase

from app.core.config import variable
from app.core.db import dispose_engines, get_engine, session_scope
from app.core.web.problem_details import problem_of
from app.dependencies import SessionDep
from app.models import User, base
from app.schemas.user import UserCreate
from tests.conformance.harness.proxy import Proxy
from tests.docs.conftest import Load
from tests.inspection import (
    driver,
    fetch,
    kill,
    nobody_is_connected,
    pid,
    stored_users,
    until_closed,
)
from tests.support import configure, create_tables, new_user, problem, set_databases, until

LEVEL = text("SHOW transaction_isolation")
ON_CALL = select(func.count(User.id)).where(User.name == "on call")

Work = Callable[[AsyncSession], Awaitable[bool]]


async def add_users(*names: str) -> list[User]:
    users = [new_user(name) for name in names]
    async with session_scope() as session:
        session.add_all(users)
    return users


# Isolation levels


async def level(session: SessionDep) -> str:
    return str(await session.scalar(LEVEL))


@pytest.mark.postgresql
@pytest.mark.pgbouncer
async def test_level_of_a_request_leaves_its_connection_with_it(
    app: FastAPI, client: AsyncClient, single: None, load: Load
) -> None:
    app.include_router(load("an isolation level").router)
    app.get("/usual")(level)

    levels = [(await client.get(path)).json() for path in ("/usual", "/strict", "/usual")]

    assert levels == ["read committed", "serializable", "read committed"]


@pytest.mark.postgresql
@pytest.mark.filterwarnings("ignore:Connection is already established")
async def test_level_is_refused_behind_a_dependency_that_has_read(
    app: FastAPI, client: AsyncClient, load: Load
) -> None:
    strict = Depends(load("an isolation level").serializable)
    user = Depends(level)

    @app.get("/late")
    async def late(_: Annotated[str, user], session: Annotated[AsyncSession, strict]) -> str:
        return await level(session)

    @app.get("/in-time")
    async def in_time(_: Annotated[AsyncSession, strict], found: Annotated[str, user]) -> str:
        return found

    assert (await client.get("/late")).status_code == 500
    assert (await client.get("/in-time")).json() == "serializable"


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


async def both_leave(in_transaction: Callable[[Work], Awaitable[bool]]) -> list[bool]:
    """Let two who are on call leave at once, unless nobody else is; return who has left."""
    users = await add_users("on call", "on call")
    both_have_read = asyncio.Event()
    reads = []

    def leaving(user: User) -> Work:
        async def leave(session: AsyncSession) -> bool:
            on_call = await session.scalar(ON_CALL) or 0
            reads.append(on_call)
            if len(reads) == 2:
                both_have_read.set()
            await both_have_read.wait()
            if on_call > 1:
                await session.execute(update(User).where(User.id == user.id).values(name="free"))
            return on_call > 1

        return leave

    left = await asyncio.gather(*(in_transaction(leaving(user)) for user in users))
    assert [2, 2] == reads[:2]
    return sorted(left)


async def test_one_leaves_where_a_transaction_is_tried_again(load: Load) -> None:
    assert [False, True] == await both_leave(load("try again").in_transaction)


@pytest.mark.postgresql
async def test_both_leave_where_no_level_is_asked_for(databases: None) -> None:
    async def in_transaction(work: Work) -> bool:
        async with session_scope() as session:
            return await work(session)

    assert [True, True] == await both_leave(in_transaction)


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
async def test_lock_lets_others_refer_to_the_user(
    environment: pytest.MonkeyPatch, load: Load
) -> None:
    configure(environment, lock_timeout=0.2)
    [ada] = await add_users("Ada")
    await fetch("CREATE TABLE notes (user_id uuid REFERENCES users)")
    note = text("INSERT INTO notes SELECT id FROM users")

    async with session_scope() as session:
        await load("lock users").lock_users(session, ada.id)
        async with session_scope() as other:
            await other.execute(note)
        with pytest.raises(DBAPIError) as caught:
            async with session_scope() as other:
                await other.scalar(select(User).with_for_update(nowait=True))

    assert problem_of(caught.value).status == 503
    async with session_scope() as session:
        await session.execute(select(User).with_for_update())
        with pytest.raises(DBAPIError, match="lock timeout"):
            async with session_scope() as other:
                await other.execute(note)


@pytest.fixture
async def queue(load: Load) -> Any:
    """The queue of the page, with one task in it."""
    queue = load("a queue")
    await create_tables(base.PrimaryBase)
    async with session_scope() as session:
        session.add(queue.Task(name="mail"))
    return queue


@pytest.mark.postgresql
async def test_task_whose_work_fails_or_takes_too_long_is_done_again(
    queue: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(queue, "SECONDS", 0.1)

    async def fail(session: AsyncSession, task: Any) -> None:
        raise ValueError

    async def take_too_long(session: AsyncSession, task: Any) -> None:
        await asyncio.Event().wait()

    async def work(session: AsyncSession, task: Any) -> None:
        session.add(new_user(task.name))

    with pytest.raises(ValueError):  # noqa: PT011
        await queue.do_one(fail)
    with pytest.raises(TimeoutError):
        await queue.do_one(take_too_long)

    assert [await queue.do_one(work) for _ in range(2)] == [True, False]
    assert await fetch("SELECT name FROM users") == [("mail",)]


@pytest.mark.postgresql
async def test_task_is_free_where_its_worker_waits_for_longer_than_the_server(
    queue: Any, environment: pytest.MonkeyPatch
) -> None:
    await dispose_engines()
    configure(environment, idle_in_transaction_timeout=0.2)
    done = []

    async def work(session: AsyncSession, task: Any) -> None:
        done.append(task.name)

    async def wait(session: AsyncSession, task: Any) -> None:
        await until_closed(await pid(session))
        await queue.do_one(work)
        await work(session, task)

    with pytest.raises(DBAPIError):
        await queue.do_one(wait)

    assert done == ["mail", "mail"]


# Idempotency keys

ADA = {"name": "Ada", "email": "ada@example.com"}
BOB = {"name": "Bob", "email": "bob@example.com"}
KEY = {"Idempotency-Key": "4b9f"}


@pytest.fixture
def idempotent(load: Load) -> Any:
    return load("an idempotency key")


@pytest.fixture
async def signups(app: FastAPI, server: AsyncClient, idempotent: Any) -> AsyncClient:
    app.include_router(idempotent.router)
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


async def test_key_of_another_client_is_another_one(
    app: FastAPI, signups: AsyncClient, idempotent: Any
) -> None:
    names = iter(("Ada", "Eve"))
    app.dependency_overrides[idempotent.current_client] = lambda: next(names)

    first, second = [await signups.post("/signups", json=ADA, headers=KEY) for _ in range(2)]

    assert first.status_code == 201
    assert problem(second)["detail"] == "Another record already has this value."


async def test_answer_outlives_a_release_that_adds_a_field(
    app: FastAPI, signups: AsyncClient, load: Load, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Newer(UserCreate):
        is_nice: bool = True

    first = await signups.post("/signups", json=ADA, headers=KEY)
    monkeypatch.setattr(base, "PrimaryBase", type("PrimaryBase", (DeclarativeBase,), {}))
    monkeypatch.setattr("app.schemas.user.UserCreate", Newer)
    app.router.routes.clear()
    app.include_router(load("an idempotency key").router)

    assert (await signups.post("/signups", json=ADA, headers=KEY)).text == first.text


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


async def count_users(session: AsyncSession) -> int:
    return await session.scalar(select(func.count(User.id))) or 0


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

    with pytest.raises(OperationalError):
        await alone("clean up", die)

    assert await alone("clean up", count_users) == 0


@pytest.mark.postgresql
async def test_lock_ends_with_a_commit_of_the_job(load: Load) -> None:
    alone = load("an advisory lock").alone

    async def commit(session: AsyncSession) -> Any:
        before = await alone("clean up", count_users)
        await session.commit()
        return before, await alone("clean up", count_users)

    assert await alone("clean up", commit) == (None, 0)


@pytest.mark.postgresql
async def test_lock_ends_where_the_job_waits_for_longer_than_the_server(
    environment: pytest.MonkeyPatch, load: Load
) -> None:
    configure(environment, idle_in_transaction_timeout=0.2)
    alone = load("an advisory lock").alone
    done = []

    async def job(session: AsyncSession) -> None:
        await until_closed(await pid(session))  # as it does where sessions of its own have the work
        done.append(await alone("clean up", count_users))

    with pytest.raises(OperationalError):
        await alone("clean up", job)

    assert done == [0]


# Many rows

ROWS = [{"name": "Ada", "email": f"{n}@example.com"} for n in range(2_500)]
USERS = [(f"Ada {n}", f"{n}@example.com") for n in range(100)]


async def test_many_rows_are_few_statements(load: Load) -> None:
    sent: list[str] = []

    @event.listens_for(get_engine().sync_engine, "before_cursor_execute")
    def note(_: object, __: object, statement: str, *others: Any) -> None:
        if statement.startswith("INSERT"):
            sent.append(statement)

    async with session_scope() as session:
        await load("many rows").add_users(session, ROWS)
        assert [1, 2_500] == [len(sent), await count_users(session)]
        await session.rollback()

        sent.clear()
        ids = await load("many rows").add_users_with_ids(session, ROWS)
        assert [3, 2_500] == [len(sent), len(ids)]


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
@pytest.mark.pgbouncer
async def test_error_of_copy_is_answered_as_any_other_and_shows_no_value(
    app: FastAPI, client: AsyncClient, caplog: pytest.LogCaptureFixture, load: Load
) -> None:
    copy_users = load("copy").copy_users

    @app.post("/copies/{name}")
    async def copy(name: str, session: SessionDep) -> None:
        if name == "lost":
            await kill(await pid(session))
        await copy_users(session, [("Hush", "hush@example.com"), (name, "hush@example.com")])

    answers = {name: await client.post(f"/copies/{name}") for name in ("twice", "lost", "x" * 201)}

    assert [409, 503, 422] == [answer.status_code for answer in answers.values()]
    assert "hush" not in f"{caplog.text} {[answer.text for answer in answers.values()]}"
    assert await stored_users() == 0


@pytest.mark.postgresql
async def test_error_of_copy_may_be_caught_at_a_savepoint(load: Load) -> None:
    async with session_scope() as session:
        with pytest.raises(IntegrityError):
            async with session.begin_nested():
                await load("copy").copy_users(session, [*USERS, *USERS])
        session.add(new_user())

    assert await stored_users() == 1


# Insert or update


async def test_second_one_who_looks_first_fails(databases: None) -> None:
    both_have_looked = asyncio.Barrier(2)

    async def add_where_there_is_none() -> None:
        async with session_scope() as session:
            known = await session.scalar(select(User).where(User.email == "ada@example.com"))
            await both_have_looked.wait()
            if known is None:
                session.add(User(email="ada@example.com", name="Ada"))

    both = (add_where_there_is_none() for _ in range(2))
    ends = await asyncio.gather(*both, return_exceptions=True)

    assert [True, False] == sorted((isinstance(end, DBAPIError) for end in ends), reverse=True)
    assert await stored_users() == 1


# Pages


async def test_key_of_a_page_is_in_any_time_zone(load: Load) -> None:
    page = load("pages by key")
    zone = timezone(timedelta(hours=2))
    users = [page.user(n, datetime(2026, 1, 1, n, tzinfo=zone)) for n in range(1, 5)]
    async with session_scope() as session:
        session.add_all(users)
        await session.flush()

        behind = await session.scalars(page.page_behind(users[2]))

        assert ["2", "1"] == [user.name for user in behind]


# Exports


@pytest.fixture
async def many_users(databases: None) -> None:
    async with session_scope() as session:
        await session.execute(insert(User), ROWS)


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
async def test_exports_leave_connections_to_others(
    client: AsyncClient, environment: pytest.MonkeyPatch, many_users: None, load: Load
) -> None:
    configure(environment, pool_size=6, pool_timeout=0.2)
    export = load("an export").export_users
    async with AsyncExitStack() as stack:
        exports = [await stack.enter_async_context(aclosing(export())) for _ in range(6)]
        begun = {asyncio.create_task(anext(export)) for export in exports}
        await until(lambda: sum(task.done() for task in begun) >= 5)

        assert (await client.get("/users")).status_code == 200

        for task in begun:
            task.cancel()
        await asyncio.wait(begun)


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
