"""The end of a session without a round trip to the server, and after a value that is refused."""

import pytest
from sqlalchemy import Connection, Integer, bindparam, func, select
from sqlalchemy.exc import DBAPIError
from sqlalchemy.ext.asyncio import AsyncConnection

from app.core.database.postgresql import needs_no_rollback
from app.core.db import get_engine, prepared, session_scope
from app.models import User
from tests.inspection import fetch, pid

pytestmark = pytest.mark.postgresql


def sync(connection: AsyncConnection) -> Connection:
    assert connection.sync_connection
    return connection.sync_connection


async def test_only_connections_in_autocommit_need_no_rollback(databases: None) -> None:
    async with get_engine(read_only=True).connect() as reading, get_engine().connect() as writing:
        assert needs_no_rollback(sync(reading))
        assert not needs_no_rollback(sync(writing))


async def test_connection_without_a_driver_connection_is_not_an_error(databases: None) -> None:
    def invalidate_in_the_pool(connection: Connection) -> None:
        connection.connection.invalidate()

    async with get_engine(read_only=True).connect() as connection:
        await connection.run_sync(invalidate_in_the_pool)
        assert not needs_no_rollback(sync(connection))


async def test_invalidated_or_closed_connection_is_not_an_error(databases: None) -> None:
    async with get_engine(read_only=True).connect() as connection:
        await connection.invalidate()
        assert not needs_no_rollback(sync(connection))

        closed = sync(connection)
    assert not needs_no_rollback(closed)


@pytest.mark.parametrize("is_prepared", [False, True])
async def test_statement_with_a_refused_value_leaves_no_lock_and_no_transaction(
    single_connection: None, *, is_prepared: bool
) -> None:
    statement = select(func.count()).where(User.version == bindparam("n", type_=Integer))
    async with session_scope(read_only=True) as session:
        number = await pid(session)
    async with session_scope(read_only=True) as session:
        with pytest.raises(DBAPIError):
            if is_prepared:
                await prepared(statement).execute(session, {"n": 2**40})
            else:
                await session.execute(statement, {"n": 2**40})
    assert await fetch(f"SELECT mode FROM pg_locks WHERE pid = {number}") == []
    async with session_scope(read_only=True) as session:
        rows = await session.stream(select(func.pg_backend_pid()))  # begins a transaction
        assert [tuple(row) async for row in rows] == [(number,)]
