"""The database refuses every write of a read-only session, whose statements run in AUTOCOMMIT."""

from collections.abc import Awaitable, Callable
from contextlib import suppress

import pytest
from fastapi import FastAPI
from httpx2 import AsyncClient
from sqlalchemy import delete, insert, select, text, update
from sqlalchemy.exc import DBAPIError, PendingRollbackError
from sqlalchemy.ext.asyncio import AsyncSession

from app.core.db import session_scope
from app.dependencies import ReadSessionDep, SessionDep
from app.models import User
from tests.inspection import fetch, stored_users
from tests.support import new_user, user_values


async def flush(session: AsyncSession) -> None:
    session.add(new_user())
    await session.flush()


async def write_at_the_end(session: AsyncSession) -> None:
    session.add(new_user())


async def add_after_a_read(session: AsyncSession) -> None:
    await session.scalars(select(User))
    session.add(new_user())


async def delete_loaded_object(session: AsyncSession) -> None:
    await session.delete((await session.scalars(select(User))).one())


async def change_loaded_object(session: AsyncSession) -> None:
    (await session.scalars(select(User))).one().name = "Mallory"


async def insert_in_core(session: AsyncSession) -> None:
    await session.execute(insert(User), [user_values(version=1)])


async def update_in_core(session: AsyncSession) -> None:
    await session.execute(update(User).values(name="Mallory"))


async def delete_in_core(session: AsyncSession) -> None:
    await session.execute(delete(User))


async def delete_in_sql(session: AsyncSession) -> None:
    await session.execute(text("DELETE FROM users"))


async def drop(session: AsyncSession) -> None:
    await session.execute(text("DROP TABLE users"))


async def write_after_a_read(session: AsyncSession) -> None:
    await session.scalars(select(User))
    await delete_in_core(session)


async def write_after_a_stream(session: AsyncSession) -> None:
    [_ async for _ in await session.stream(select(User))]
    await delete_in_core(session)


async def write_in_a_savepoint(session: AsyncSession) -> None:
    async with session.begin_nested():
        await delete_in_core(session)


async def write_after_a_commit(session: AsyncSession) -> None:
    await session.scalars(select(User))
    await session.commit()
    await delete_in_core(session)


Write = Callable[[AsyncSession], Awaitable[None]]

WRITES: list[Write] = [
    flush,
    write_at_the_end,
    add_after_a_read,
    delete_loaded_object,
    change_loaded_object,
    insert_in_core,
    update_in_core,
    delete_in_core,
    delete_in_sql,
    drop,
    write_after_a_read,
    write_after_a_stream,
    write_in_a_savepoint,
    write_after_a_commit,
]


@pytest.mark.sqlite
@pytest.mark.postgresql
@pytest.mark.pgbouncer
async def test_read_only_session_refuses_writes(databases: None) -> None:
    async with session_scope() as session:
        session.add(new_user(name="Ada"))

    for write in WRITES:
        with pytest.raises(DBAPIError, match=r"readonly|read-only"):
            async with session_scope(read_only=True) as session:
                await write(session)
            pytest.fail(write.__name__)

        assert [("Ada",)] == await fetch("SELECT name FROM users"), write


@pytest.mark.sqlite  # on PostgreSQL: tests/core/database/postgresql/test_read_only_sessions.py
async def test_swallowed_refusal_makes_the_commit_fail(databases: None) -> None:
    with pytest.raises(PendingRollbackError):
        async with session_scope(read_only=True) as session:
            await session.scalars(select(User))
            with suppress(DBAPIError):
                await flush(session)


async def test_route_that_writes_in_a_read_only_session_returns_an_error(
    app: FastAPI, client: AsyncClient
) -> None:
    @app.get("/writing")
    async def write(session: ReadSessionDep) -> None:
        session.add(new_user())

    assert (await client.get("/writing")).status_code == 500
    assert await stored_users() == 0


async def test_read_only_session_sees_commits_but_not_flushes_of_the_other_session(
    app: FastAPI, client: AsyncClient
) -> None:
    @app.post("/both")
    async def both(writing: SessionDep, reading: ReadSessionDep) -> list[int]:
        def count(session: AsyncSession) -> Awaitable[int]:
            return session.scalar(text("SELECT count(*) FROM users"))

        writing.add(new_user())
        await writing.flush()
        flushed = [await count(writing), await count(reading)]
        await writing.commit()
        return [*flushed, await count(writing), await count(reading)]

    assert [1, 0, 1, 1] == (await client.post("/both")).json()


@pytest.mark.sqlite  # on PostgreSQL: tests/core/database/postgresql/test_read_only_sessions.py
async def test_stream_reads_one_snapshot(databases: None) -> None:
    async with session_scope() as session:
        session.add_all(new_user() for _ in range(200))

    for number in (200, 201):  # the second pass reuses the connection of the first
        async with session_scope(read_only=True) as session:
            stream = (await session.stream_scalars(select(User.id))).__aiter__()
            await anext(stream)
            async with session_scope() as other:
                other.add(new_user())
            assert len([user_id async for user_id in stream]) == number - 1


async def test_read_only_session_is_usable_after_a_failed_savepoint(databases: None) -> None:
    async with session_scope(read_only=True) as session:
        with pytest.raises(DBAPIError):
            async with session.begin_nested():
                await session.execute(text("SELECT * FROM nowhere"))

        assert await session.scalar(text("SELECT 1")) == 1
