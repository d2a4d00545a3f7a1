"""A COMMIT to which PostgreSQL responds with ROLLBACK raises TransactionFailedError."""

from collections.abc import Awaitable, Callable

import asyncpg
import pytest
from sqlalchemy import text
from sqlalchemy.exc import DBAPIError
from sqlalchemy.ext.asyncio import AsyncSession

from app.core.db import TransactionFailedError, session_scope
from tests.inspection import driver, stored_users
from tests.support import new_user

pytestmark = pytest.mark.postgresql


async def fail_in_a_statement(session: AsyncSession) -> None:
    await session.execute(text("SELECT 1 / 0"))


async def fail_in_the_driver(session: AsyncSession) -> None:
    """Fail where SQLAlchemy does not see it, as a COPY may."""
    await (await driver(session)).fetch("SELECT 1 / 0")


@pytest.mark.parametrize("fail", [fail_in_a_statement, fail_in_the_driver])
async def test_commit_fails_after_an_error_that_was_swallowed(
    single_connection: None, fail: Callable[[AsyncSession], Awaitable[None]]
) -> None:
    with pytest.raises(TransactionFailedError):
        async with session_scope() as session:
            session.add(new_user())
            await session.flush()
            with pytest.raises((DBAPIError, asyncpg.PostgresError)):
                await fail(session)

    assert await stored_users() == 0
    async with session_scope() as session:  # on the same connection
        session.add(new_user())
    assert await stored_users() == 1
