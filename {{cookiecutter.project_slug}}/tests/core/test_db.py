"""Promises of core/db.py: commit, rollback, close, dependencies, read-only sessions, secrets."""

import asyncio
import os
import subprocess
import sys
from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest
from fastapi import Depends, FastAPI
from httpx2 import AsyncClient
from sqlalchemy import text
from sqlalchemy.exc import DBAPIError, IntegrityError, InvalidRequestError
from sqlalchemy.ext.asyncio import AsyncSession

from app.core.config import get_settings, variable
from app.core.db import (
    DatabaseNotFoundError,
    TransactionFailedError,
    get_session,
    session_scope,
)
from app.dependencies import DevSessionDep, PrimarySessionDep, SessionDep
from app.main import create_app
from tests.inspection import checked_out, kill, nobody_is_connected, pid, stored_users, until_active
from tests.support import (
    abort_transaction,
    new_user,
    problem,
    set_databases,
    until,
    violate_at_commit,
)

ROOT = Path(__file__).parents[2]


# Commit


async def test_session_commits_when_its_block_ends(databases: None) -> None:
    async with session_scope() as session:
        session.add(new_user())
        await session.flush()
        assert await stored_users() == 0  # other connections do not see it yet

    assert await stored_users() == 1


async def test_read_after_the_response_sees_the_write(app: FastAPI, server: AsyncClient) -> None:
    @app.post("/write")
    async def write(session: SessionDep) -> None:
        session.add(new_user())

    for count in range(1, 26):
        assert (await server.post("/write")).status_code == 200
        assert await stored_users() == count


async def test_commit_that_fails_is_an_error_response_and_stores_nothing(
    app: FastAPI, server: AsyncClient
) -> None:
    """The status is not sent before the COMMIT has succeeded: a real socket shows the order."""

    @app.post("/write", status_code=201)
    async def write(session: SessionDep) -> None:
        session.add(new_user())
        await violate_at_commit(session)

    response = await server.post("/write")

    assert problem(response)["status"] == 409
    assert await stored_users() == 0


async def test_commit_that_fails_leaves_nothing_to_the_next_session(
    single_connection: None,
) -> None:
    with pytest.raises(IntegrityError):
        async with session_scope() as session:
            session.add(new_user())
            await violate_at_commit(session)
    async with session_scope() as session:  # on the same connection
        session.add(new_user())

    assert await stored_users() == 1


async def test_commit_of_a_transaction_that_the_database_gave_up_is_an_error(
    databases: None,
) -> None:
    with pytest.raises(TransactionFailedError):
        async with session_scope() as session:
            await abort_transaction(session)  # swallows the error of a statement

    assert await stored_users() == 0


async def test_route_may_commit_roll_back_and_use_savepoints_by_itself(databases: None) -> None:
    with pytest.raises(ValueError, match="after the commit"):
        async with session_scope() as session:
            user = new_user()
            session.add(user)
            await session.commit()
            await session.refresh(user)
            session.add(new_user())
            await session.rollback()
            session.add(new_user())
            with pytest.raises(LookupError):
                async with session.begin_nested():  # rolls back only its own writes
                    session.add(new_user())
                    await session.flush()
                    raise LookupError
            await session.commit()
            session.add(new_user())
            await session.flush()
            raise ValueError("after the commit")

    assert await stored_users() == 2


# Rollback


@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt, asyncio.CancelledError])
async def test_any_exception_rolls_back_and_is_raised_unchanged(
    databases: None, error: type[BaseException]
) -> None:
    raised = error("mine")

    with pytest.raises(error) as caught:
        async with session_scope() as session:
            session.add(new_user())
            await session.flush()
            raise raised

    assert caught.value is raised
    assert not checked_out()
    assert await stored_users() == 0


async def test_task_that_is_cancelled_repeatedly_leaves_no_connection_no_task_and_no_row(
    databases: None,
) -> None:
    async def write_and_read(written: asyncio.Event) -> None:
        async with session_scope() as session:
            session.add(new_user())
            await session.flush()
            written.set()
            while True:
                await session.execute(text("SELECT 1"))

    tasks = len(asyncio.all_tasks())
    for _ in range(10):
        written = asyncio.Event()
        task = asyncio.create_task(write_and_read(written))
        await written.wait()
        while not task.done():
            task.cancel()
            await asyncio.sleep(0)

    await until(lambda: len(asyncio.all_tasks()) == tasks)
    await until(lambda: not checked_out())
    assert await stored_users() == 0


@pytest.mark.postgresql
async def test_rollback_on_a_dead_connection_does_not_replace_the_exception(
    single_connection: None, caplog: pytest.LogCaptureFixture
) -> None:
    raised = KeyError("mine")

    with pytest.raises(KeyError) as caught:
        async with session_scope() as session:
            session.add(new_user())
            await kill(await pid(session))
            raise raised

    assert caught.value is raised
    assert "WARNING" in {record.levelname for record in caplog.records}
    await until(nobody_is_connected)
    async with session_scope() as session:
        session.add(new_user())
    assert await stored_users() == 1


@pytest.mark.postgresql
async def test_connection_that_a_task_still_uses_is_closed_when_the_block_fails(
    single_connection: None,
) -> None:
    with pytest.raises(LookupError):
        async with session_scope() as session:
            session.add(new_user())
            before = await pid(session)
            task = asyncio.create_task(session.execute(text("SELECT pg_sleep(60)")))
            await until_active(before)
            raise LookupError

    assert not checked_out()
    async with session_scope() as session:
        assert await pid(session) != before
    assert await stored_users() == 0
    await asyncio.gather(task, return_exceptions=True)
    await kill(before)


# The end of a session


async def test_attributes_stay_readable_after_the_commit(databases: None) -> None:
    async with session_scope() as session:
        user = new_user(name="Ada")
        session.add(user)

    assert user.name == "Ada"


async def test_session_refuses_to_be_used_after_its_end(databases: None) -> None:
    async with session_scope() as session:
        await session.execute(text("SELECT 1"))

    with pytest.raises(InvalidRequestError, match="closed"):
        await session.execute(text("SELECT 1"))
    assert not checked_out()


# Dependencies


def test_same_arguments_give_the_same_dependency() -> None:
    assert get_session() is get_session(None) is get_session("primary")
    assert get_session("x", dev=True) is get_session("x", dev=True)
    others = {get_session(), get_session("x"), get_session(dev=True), get_session(read_only=True)}
    assert len(others) == 4


async def test_aliases_of_a_database_share_one_session_in_a_request(
    app: FastAPI, client: AsyncClient
) -> None:
    seen: list[AsyncSession] = []

    @app.post("/same")
    async def same(one: SessionDep, other: PrimarySessionDep) -> bool:
        seen.append(one)
        return one is other

    assert (await client.post("/same")).json() is True
    assert (await client.post("/same")).json() is True
    assert seen[0] is not seen[1]  # each request has its own


# Which database, and when


def test_import_opens_nothing_and_reads_no_settings(tmp_path: Path) -> None:
    """ENVIRONMENT is wrong on purpose: reading the settings would fail. `create_app` may read them."""
    code = (
        "import gc, os, sys\n"
        "opened = []\n"
        "events = 'socket.connect', 'socket.getaddrinfo', 'sqlite3.connect'\n"
        "sys.addaudithook(lambda event, _: event in events and opened.append(event))\n"
        "import app.main, app.dependencies\n"
        "from sqlalchemy import Engine\n"
        "from app.core.db import get_session\n"
        "get_session('nowhere', dev=True, read_only=True)\n"
        "os.environ['ENVIRONMENT'] = 'test'\n"
        "app.main.app.openapi()  # created on its first use\n"
        "assert not opened, opened\n"
        "assert not [it for it in gc.get_objects() if type(it) is Engine]\n"
    )
    environment = os.environ | {"ENVIRONMENT": "wrong", "PYTHONPATH": str(ROOT)}
    subprocess.run([sys.executable, "-c", code], check=True, cwd=tmp_path, env=environment)

    assert not list(tmp_path.iterdir())


async def test_name_and_dev_choose_the_database(
    app: FastAPI, client: AsyncClient, new_database: str, environment: pytest.MonkeyPatch
) -> None:
    """One new database is the development database of `primary`, and has the name `other`."""
    environment.setenv(variable("primary", "dev_database_url"), new_database)
    set_databases(environment, {"other": new_database})
    async with session_scope(dev=True) as session:
        await session.execute(text("CREATE TABLE only_here (id INTEGER)"))

    @app.get("/dev")
    async def dev(session: DevSessionDep) -> int:
        return len((await session.execute(text("SELECT * FROM only_here"))).all())

    async with session_scope("other") as session:
        await session.execute(text("INSERT INTO only_here VALUES (1)"))
    assert (await client.get("/dev")).json() == 1
    with pytest.raises(DBAPIError, match="only_here"):
        async with session_scope() as session:
            await session.execute(text("SELECT * FROM only_here"))


async def test_misspelt_name_of_a_database_stops_the_start(environment: pytest.MonkeyPatch) -> None:
    app = create_app()
    misspelt = Depends(get_session("analytcs"), scope="function")

    @app.get("/misspelt", dependencies=[misspelt])
    async def route() -> None:
        pass

    with pytest.raises(DatabaseNotFoundError, match="'analytcs'"):
        async with app.router.lifespan_context(app):
            pass


# Read-only


async def flush(session: AsyncSession) -> None:
    session.add(new_user())
    await session.flush()


async def leave_it_to_the_commit(session: AsyncSession) -> None:
    session.add(new_user())


async def delete_in_sql(session: AsyncSession) -> None:
    await session.execute(text("DELETE FROM users"))


@pytest.mark.parametrize("write", [flush, leave_it_to_the_commit, delete_in_sql])
async def test_read_only_session_refuses_writes(
    databases: None, write: Callable[[AsyncSession], Awaitable[None]]
) -> None:
    async with session_scope() as session:
        session.add(new_user())

    with pytest.raises(DBAPIError, match=r"readonly|read-only"):
        async with session_scope(read_only=True) as session:
            await write(session)

    assert await stored_users() == 1


async def test_read_only_session_uses_the_replica(
    databases: None, environment: pytest.MonkeyPatch, new_database: str
) -> None:
    environment.setenv(variable("primary", "read_database_url"), new_database)
    get_settings.cache_clear()

    with pytest.raises(DBAPIError, match="users"):  # this replica has no tables
        async with session_scope(read_only=True) as session:
            await session.execute(text("SELECT * FROM users"))


# Secrets


async def test_values_of_a_statement_are_not_in_its_error(databases: None) -> None:
    with pytest.raises(DBAPIError) as error:
        async with session_scope() as session:
            await session.execute(text("SELECT :value FROM nowhere"), {"value": "private"})

    assert "private" not in f"{error.value} {error.value!r}"
