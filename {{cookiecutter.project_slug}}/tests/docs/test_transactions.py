"""The examples of docs/transactions.md, and facts of the page that they do not print."""

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
from sqlalchemy import delete, event, func, insert, select, text, update
from sqlalchemy.exc import ArgumentError, DBAPIError, IntegrityError, OperationalError, SAWarning
from sqlalchemy.ext.asyncio import AsyncSession
from sqlalchemy.orm import DeclarativeBase

from app.core.config import variable
from app.core.db import dispose_engines, get_engine, session_scope
from app.core.web.problem_details import problem_for
from app.dependencies import SessionDep
from app.models import User, base
from app.schemas.user import UserCreate
from tests.conformance.harness.proxy import Proxy
from tests.conformance.support import create_tables
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
from tests.support import configure, new_user, problem, set_databases, until

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
async def test_isolation_level_does_not_reach_the_next_request(
    app: FastAPI, client: AsyncClient, single_connection: None, load: Load
) -> None:
    app.include_router(load("an isolation level").router)
    app.get("/usual")(level)

    levels = [(await client.get(path)).json() for path in ("/usual", "/strict", "/usual")]

    assert levels == ["read committed", "serializable", "read committed"]


@pytest.mark.postgresql
@pytest.mark.filterwarnings("ignore:Connection is already established")
async def test_isolation_level_after_a_dependency_that_reads_raises(
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
async def test_set_session_characteristics_reaches_the_next_session(
    single_connection: None,
) -> None:
    async with session_scope() as session:
        await session.execute(
            text("SET SESSION CHARACTERISTICS AS TRANSACTION ISOLATION LEVEL SERIALIZABLE")
        )

    async with session_scope() as session:
        assert await session.scalar(LEVEL) == "serializable"


@pytest.mark.postgresql
async def test_isolation_level_after_the_first_statement_is_ignored(databases: None) -> None:
    async with session_scope() as session:
        await session.execute(text("SELECT 1"))
        with pytest.warns(SAWarning, match="execution_options ignored"):
            await session.connection(execution_options={"isolation_level": "SERIALIZABLE"})

        assert await session.scalar(LEVEL) == "read committed"


@pytest.mark.sqlite
async def test_sqlite_rejects_repeatable_read(databases: None) -> None:
    async with session_scope() as session:
        with pytest.raises(ArgumentError, match="REPEATABLE READ"):
            await session.connection(execution_options={"isolation_level": "REPEATABLE READ"})


# Retries


async def leave_at_the_same_time(run: Callable[[Work], Awaitable[bool]]) -> list[bool]:
    """Let two users on call leave, each if the other one stays; return whether each one left."""
    users = await add_users("on call", "on call")
    both_have_read = asyncio.Event()
    reads = []

    def leave_as(user: User) -> Work:
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

    left = await asyncio.gather(*(run(leave_as(user)) for user in users))
    assert reads[:2] == [2, 2]
    return sorted(left)


async def test_retry_prevents_write_skew(load: Load) -> None:
    assert await leave_at_the_same_time(load("try again").retry_transaction) == [False, True]


@pytest.mark.postgresql
async def test_read_committed_allows_write_skew(databases: None) -> None:
    async def run(work: Work) -> bool:
        async with session_scope() as session:
            return await work(session)

    assert await leave_at_the_same_time(run) == [True, True]


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
async def test_only_retryable_errors_are_retried_and_attempts_are_limited(
    load: Load, error: str, attempts: int
) -> None:
    sessions: list[AsyncSession] = []
    work = failing(error)

    async def count(session: AsyncSession) -> None:
        sessions.append(session)
        await work(session)

    with pytest.raises(DBAPIError):
        await load("try again").retry_transaction(count, attempts=3)

    assert len({*map(id, sessions)}) == attempts
    assert await stored_users() == 0


# Locks


async def test_concurrent_lock_users_loses_no_update(load: Load) -> None:
    append_to_names = load("lock users").append_to_names
    ada, bob = await add_users("Ada", "Bob")

    forward = (append_to_names("+", ada.id, bob.id) for _ in range(10))
    backward = (append_to_names("-", bob.id, ada.id) for _ in range(10))
    await asyncio.gather(*forward, *backward)

    async with session_scope() as session:
        names = list(await session.scalars(select(User.name).order_by(User.name)))
    assert [name[:3] for name in names] == ["Ada", "Bob"]
    assert [(name.count("+"), name.count("-")) for name in names] == [(10, 10)] * 2


@pytest.mark.postgresql
async def test_lock_users_reloads_objects_of_the_session(load: Load) -> None:
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
async def test_lock_users_allows_inserts_that_refer_to_the_user(
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

    assert problem_for(caught.value).status == 503
    async with session_scope() as session:
        await session.execute(select(User).with_for_update())
        with pytest.raises(DBAPIError, match="lock timeout"):
            async with session_scope() as other:
                await other.execute(note)


@pytest.fixture
async def queue(load: Load) -> Any:
    """The example of a queue, with one task."""
    queue = load("a queue")
    await create_tables(base.PrimaryBase)
    async with session_scope() as session:
        session.add(queue.Task(name="mail"))
    return queue


@pytest.mark.postgresql
async def test_two_workers_process_each_task_once(queue: Any) -> None:
    async with session_scope() as session:
        session.add_all(queue.Task(name=name) for name in "abc")
    done = list[str]()
    both_have_one = asyncio.Barrier(2)

    async def work(_: AsyncSession, task: Any) -> None:
        if task.name in {"mail", "a"}:
            await both_have_one.wait()
        done.append(task.name)

    async def worker() -> list[bool]:
        return [await queue.process_one(work) for _ in range(3)]

    first, second = await asyncio.gather(worker(), worker())

    assert sorted(done) == ["a", "b", "c", "mail"]
    assert sorted(first + second) == [False, False, True, True, True, True]


@pytest.mark.postgresql
async def test_task_is_retried_after_an_error_or_a_timeout(
    queue: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(queue, "TASK_TIMEOUT", 0.1)

    async def fail(session: AsyncSession, task: Any) -> None:
        raise ValueError

    async def take_too_long(session: AsyncSession, task: Any) -> None:
        await asyncio.Event().wait()

    async def work(session: AsyncSession, task: Any) -> None:
        session.add(new_user(task.name))

    with pytest.raises(ValueError):  # noqa: PT011
        await queue.process_one(fail)
    with pytest.raises(TimeoutError):
        await queue.process_one(take_too_long)

    assert [await queue.process_one(work) for _ in range(2)] == [True, False]
    assert await fetch("SELECT name FROM users") == [("mail",)]


@pytest.mark.postgresql
async def test_task_is_unlocked_when_postgresql_ends_the_idle_transaction(
    queue: Any, environment: pytest.MonkeyPatch
) -> None:
    await dispose_engines()
    configure(environment, idle_in_transaction_timeout=0.2)
    done = []

    async def work(session: AsyncSession, task: Any) -> None:
        done.append(task.name)

    async def wait(session: AsyncSession, task: Any) -> None:
        await until_closed(await pid(session))
        await queue.process_one(work)
        await work(session, task)

    with pytest.raises(DBAPIError):
        await queue.process_one(wait)

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


async def test_five_concurrent_requests_with_one_key_create_one_user(signups: AsyncClient) -> None:
    requests = (signups.post("/signups", json=ADA, headers=KEY) for _ in range(5))
    responses = await asyncio.gather(*requests)

    assert {response.status_code for response in responses} == {201}
    assert len({response.text for response in responses}) == 1
    assert await stored_users() == 1


async def test_key_with_another_body_is_rejected(signups: AsyncClient) -> None:
    await signups.post("/signups", json=ADA, headers=KEY)

    assert problem(await signups.post("/signups", json=BOB, headers=KEY))["status"] == 422
    assert await stored_users() == 1


async def test_same_key_of_another_client_is_a_different_key(
    app: FastAPI, signups: AsyncClient, idempotent: Any
) -> None:
    names = iter(("Ada", "Eve"))
    app.dependency_overrides[idempotent.current_client] = lambda: next(names)

    first, second = [await signups.post("/signups", json=ADA, headers=KEY) for _ in range(2)]

    assert first.status_code == 201
    assert problem(second)["detail"] == "Another record already has this value."


async def test_stored_response_survives_a_release_that_adds_a_field(
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


async def test_error_response_is_not_stored(signups: AsyncClient) -> None:
    taken = (await signups.post("/users", json=ADA)).json()
    assert (await signups.post("/signups", json=ADA, headers=KEY)).status_code == 409
    await signups.delete(f"/users/{taken['id']}")

    assert (await signups.post("/signups", json=ADA, headers=KEY)).status_code == 201


@pytest.mark.postgresql
@pytest.mark.parametrize("is_delivered", [False, True])
async def test_retry_after_a_lost_commit_creates_one_user(
    signups: AsyncClient, environment: pytest.MonkeyPatch, is_delivered: bool
) -> None:
    async with Proxy(os.environ[variable("primary")]) as proxy:
        set_databases(environment, {"primary": proxy.url})
        proxy.lose(b"COMMIT", is_delivered=is_delivered)
        assert (await signups.post("/signups", json=ADA, headers=KEY)).status_code == 503
        await until(nobody_is_connected)
        assert await stored_users() == is_delivered

        response = await signups.post("/signups", json=ADA, headers=KEY)

        assert response.status_code == 201
        assert response.json() == (await signups.get(f"/users/{response.json()['id']}")).json()
        assert await stored_users() == 1
        await dispose_engines()


# Advisory locks


async def count_users(session: AsyncSession) -> int:
    return await session.scalar(select(func.count(User.id))) or 0


@pytest.mark.postgresql
async def test_connection_lock_outlives_its_session_and_transaction_lock_does_not(
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
    assert (True, holder) in got  # the first connection still has it, for any session


@pytest.mark.postgresql
async def test_second_process_gets_none_and_batches_continue(load: Load) -> None:
    run_exclusively = load("an advisory lock").run_exclusively
    await add_users(*"abcde")
    has_begun, may_end = asyncio.Event(), asyncio.Event()

    async def delete_two(session: AsyncSession) -> int:
        two = delete(User).where(User.id.in_(select(User.id).limit(2))).returning(User.id)
        ids = (await session.scalars(two)).all()
        has_begun.set()
        await may_end.wait()
        return len(ids)

    first = asyncio.create_task(run_exclusively("clean up", delete_two))
    await has_begun.wait()
    assert await run_exclusively("clean up", delete_two) is None
    may_end.set()
    assert await first == 2
    assert [await run_exclusively("clean up", delete_two) for _ in range(3)] == [2, 1, 0]


@pytest.mark.postgresql
async def test_lock_is_released_when_its_connection_dies(load: Load) -> None:
    run_exclusively = load("an advisory lock").run_exclusively

    async def die(session: AsyncSession) -> None:
        await kill(await pid(session))
        await session.execute(text("SELECT 1"))

    with pytest.raises(OperationalError):
        await run_exclusively("clean up", die)

    assert await run_exclusively("clean up", count_users) == 0


@pytest.mark.postgresql
async def test_commit_in_a_batch_releases_the_lock(load: Load) -> None:
    run_exclusively = load("an advisory lock").run_exclusively

    async def commit(session: AsyncSession) -> Any:
        before = await run_exclusively("clean up", count_users)
        await session.commit()
        return before, await run_exclusively("clean up", count_users)

    assert await run_exclusively("clean up", commit) == (None, 0)


@pytest.mark.postgresql
async def test_lock_is_released_when_postgresql_ends_the_idle_transaction(
    environment: pytest.MonkeyPatch, load: Load
) -> None:
    configure(environment, idle_in_transaction_timeout=0.2)
    run_exclusively = load("an advisory lock").run_exclusively
    done = []

    async def job(session: AsyncSession) -> None:
        await until_closed(await pid(session))  # as if it waited for its own other sessions
        done.append(await run_exclusively("clean up", count_users))

    with pytest.raises(OperationalError):
        await run_exclusively("clean up", job)

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
async def test_copy_without_begin_commits_by_itself(databases: None) -> None:
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
async def test_errors_of_copy_become_problem_responses_without_values(
    app: FastAPI, client: AsyncClient, caplog: pytest.LogCaptureFixture, load: Load
) -> None:
    copy_users = load("copy").copy_users

    @app.post("/copies/{name}")
    async def copy(name: str, session: SessionDep) -> None:
        if name == "lost":
            await kill(await pid(session))
        await copy_users(session, [("Hush", "hush@example.com"), (name, "hush@example.com")])

    responses = {
        name: await client.post(f"/copies/{name}") for name in ("twice", "lost", "x" * 201)
    }

    assert [409, 503, 422] == [response.status_code for response in responses.values()]
    assert "hush" not in f"{caplog.text} {[response.text for response in responses.values()]}"
    assert await stored_users() == 0


@pytest.mark.postgresql
async def test_error_of_copy_can_be_caught_in_a_savepoint(load: Load) -> None:
    async with session_scope() as session:
        with pytest.raises(IntegrityError):
            async with session.begin_nested():
                await load("copy").copy_users(session, [*USERS, *USERS])
        session.add(new_user())

    assert await stored_users() == 1


# Insert or update


async def test_select_before_insert_fails_for_the_second_transaction(databases: None) -> None:
    both_have_read = asyncio.Barrier(2)

    async def add_unless_found() -> None:
        async with session_scope() as session:
            found = await session.scalar(select(User).where(User.email == "ada@example.com"))
            await both_have_read.wait()
            if found is None:
                session.add(User(email="ada@example.com", name="Ada"))

    both = (add_unless_found() for _ in range(2))
    results = await asyncio.gather(*both, return_exceptions=True)

    assert sorted(isinstance(result, DBAPIError) for result in results) == [False, True]
    assert await stored_users() == 1


# Pages


async def test_key_of_a_page_accepts_any_time_zone(load: Load) -> None:
    page = load("pages by key")
    zone = timezone(timedelta(hours=2))
    users = [page.user(n, datetime(2026, 1, 1, n, tzinfo=zone)) for n in range(1, 5)]
    async with session_scope() as session:
        session.add_all(users)
        await session.flush()

        after = await session.scalars(page.page_after(users[2]))

        assert ["2", "1"] == [user.name for user in after]


# Exports


@pytest.fixture
async def many_users(databases: None) -> None:
    async with session_scope() as session:
        await session.execute(insert(User), ROWS)


async def test_export_is_one_snapshot(many_users: None, load: Load) -> None:
    batches = load("an export").export_users()
    first = await anext(batches)
    await add_users("late")
    others = [batch async for batch in batches]

    assert [1000, 1000, 500] == [batch.count(b"\n") for batch in (first, *others)]
    assert not any(b"late" in batch for batch in others)


async def test_export_has_a_line_for_each_user(
    app: FastAPI, server: AsyncClient, many_users: None, load: Load
) -> None:
    app.include_router(load("an export").router)

    response = await server.get("/user-export")

    assert response.headers["content-type"] == "application/x-ndjson"
    assert response.text.count("\n") == 2_500


@pytest.mark.postgresql
async def test_exports_leave_connections_for_other_requests(
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
async def test_statement_timeout_applies_to_each_batch(
    environment: pytest.MonkeyPatch, many_users: None, load: Load
) -> None:
    configure(environment, statement_timeout=0.5)
    batches = load("an export").export_users()
    await anext(batches)

    await asyncio.sleep(0.6)

    assert len([batch async for batch in batches]) == 2


@pytest.mark.postgresql
async def test_export_that_is_not_read_is_ended_by_postgresql(
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
