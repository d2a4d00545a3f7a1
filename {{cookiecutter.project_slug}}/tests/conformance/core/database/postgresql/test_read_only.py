"""`needs_no_rollback`: whether a session can end without a round trip to the server."""

import pytest
from sqlalchemy import Connection
from sqlalchemy.ext.asyncio import AsyncConnection

from app.core.database.postgresql import needs_no_rollback
from app.core.db import get_engine

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
