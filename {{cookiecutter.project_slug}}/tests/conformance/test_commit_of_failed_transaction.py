"""Committing a transaction that the database has aborted raises an error."""

import asyncpg
import pytest
from sqlalchemy import text
from sqlalchemy.exc import DBAPIError, OperationalError
from sqlalchemy.ext.asyncio import AsyncSession

from app.core.db import TransactionFailedError, session_scope
from tests.inspection import driver, stored_users
from tests.support import abort_transaction, new_user


async def test_statement_in_an_aborted_transaction_raises(databases: None) -> None:
    async with session_scope() as session:
        await abort_transaction(session)
        with pytest.raises((TransactionFailedError, DBAPIError), match=r"was caught|is aborted"):
            await session.execute(text("CREATE TABLE stray (id INTEGER)"))
        await session.rollback()
        session.add(new_user())

    assert await stored_users() == 1
    with pytest.raises(DBAPIError, match="stray"):
        async with session_scope() as session:
            await session.execute(text("SELECT * FROM stray"))


@pytest.mark.sqlite
async def test_error_that_does_not_abort_the_transaction_may_be_ignored(databases: None) -> None:
    async with session_scope() as session:
        session.add(new_user())
        await session.flush()
        with pytest.raises(OperationalError):
            await session.execute(text("SELECT * FROM nowhere"))

    assert await stored_users() == 1


async def fail_in_a_statement(session: AsyncSession) -> None:
    await session.execute(text("SELECT 1 / 0"))


async def fail_in_a_copy(session: AsyncSession) -> None:
    await (await driver(session)).copy_records_to_table("users", records=[], columns=["nothing"])


@pytest.mark.postgresql
async def test_swallowed_error_of_a_copy_makes_the_commit_fail(single_connection: None) -> None:
    with pytest.raises(TransactionFailedError):
        async with session_scope() as session:
            session.add(new_user())
            await session.flush()
            with pytest.raises(asyncpg.UndefinedColumnError):
                await fail_in_a_copy(session)

    assert await stored_users() == 0
    async with session_scope() as session:
        session.add(new_user())
    assert await stored_users() == 1


@pytest.mark.postgresql
async def test_session_is_usable_after_a_refused_commit(
    single_connection: None,
) -> None:
    async with session_scope() as session:
        session.add(new_user())
        await session.flush()
        with pytest.raises(DBAPIError):
            await fail_in_a_statement(session)
        with pytest.raises(TransactionFailedError):
            await session.commit()
        await session.rollback()
        session.add(new_user())

    assert await stored_users() == 1
