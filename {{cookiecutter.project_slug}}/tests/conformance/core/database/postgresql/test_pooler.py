"""PGBOUNCER=true: a session sets limits in its transaction, and leaves nothing behind.

PgBouncer gives each transaction another connection to the server. These tests need no PgBouncer:
PostgreSQL itself reports the settings and statements that stay on a connection.
"""

import pytest
from sqlalchemy import text
from sqlalchemy.exc import DBAPIError

from app.core.db import get_engine, session_scope
from tests.inspection import pid, stored_users
from tests.support import configure, new_user

pytestmark = pytest.mark.postgresql


@pytest.fixture
def pooled(single_connection: None, environment: pytest.MonkeyPatch) -> None:
    """Settings as for PgBouncer, and one connection."""
    configure(environment, pgbouncer=True, statement_timeout=1.5)


async def test_no_prepared_statement_stays_on_a_connection(pooled: None) -> None:
    async with session_scope() as session:
        before = await pid(session)
        session.add(new_user())
    for read_only in (False, True):
        async with session_scope(read_only=read_only) as session:
            await session.execute(text("SELECT * FROM users"))
            kept = await session.scalars(text("SELECT statement FROM pg_prepared_statements"))
            assert kept.all() == []
            assert (await pid(session) == before) is not read_only


@pytest.mark.parametrize("read_only", [False, True])
async def test_limits_are_set_in_each_transaction_and_end_with_it(
    pooled: None, read_only: bool
) -> None:
    limit = text("SHOW statement_timeout")
    for _ in range(2):
        async with session_scope(read_only=read_only) as session:
            assert await session.scalar(limit) == "1500ms"

    async with get_engine(read_only=read_only).connect() as connection:
        driver = (await connection.get_raw_connection()).driver_connection
        assert driver
        assert await driver.fetchval(limit.text) != "1500ms"


async def test_read_only_session_refuses_writes_and_the_next_one_does_not(pooled: None) -> None:
    with pytest.raises(DBAPIError, match="read-only"):
        async with session_scope(read_only=True) as session:
            session.add(new_user())
    async with session_scope() as session:
        session.add(new_user())

    assert await stored_users() == 1
