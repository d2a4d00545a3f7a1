"""The server refuses what a read-only session writes, and knows of no transaction."""

import pytest
from sqlalchemy import text
from sqlalchemy.exc import DBAPIError

from app.core.db import session_scope
from tests.inspection import fetch, pid, stored_users
from tests.support import new_user


async def test_read_only_session_is_refused_a_write_by_the_database(databases: None) -> None:
    with pytest.raises(DBAPIError, match=r"readonly|read-only"):
        async with session_scope(read_only=True) as session:
            session.add(new_user())

    assert await stored_users() == 0


@pytest.mark.postgresql
async def test_read_only_session_waits_in_no_transaction(databases: None) -> None:
    async with session_scope(read_only=True) as session:
        number = await pid(session)
        [(state,)] = await fetch(f"SELECT state FROM pg_stat_activity WHERE pid = {number}")

        assert await session.scalar(text("SHOW default_transaction_read_only")) == "on"

    assert state == "idle"


@pytest.mark.sqlite
async def test_read_only_connection_refuses_writes(databases: None) -> None:
    async with session_scope(read_only=True) as session:
        assert await session.scalar(text("PRAGMA query_only")) == 1
