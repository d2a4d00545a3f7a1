"""A commit that stores nothing never ends well."""

from typing import Any

import asyncpg
import pytest
from fastapi import FastAPI
from httpx2 import AsyncClient
from sqlalchemy import text
from sqlalchemy.exc import DBAPIError, OperationalError
from sqlalchemy.ext.asyncio import AsyncSession

from app.core.db import TransactionFailedError, session_scope
from app.dependencies import SessionDep
from tests.inspection import driver, stored_users
from tests.support import abort_transaction, new_user, problem


async def test_transaction_that_the_database_has_given_up_is_not_committed(
    databases: None,
) -> None:
    with pytest.raises(TransactionFailedError, match="swallowed"):
        async with session_scope() as session:
            await abort_transaction(session)

    assert await stored_users() == 0


async def test_commit_that_would_store_nothing_is_an_error_response(
    app: FastAPI, server: AsyncClient
) -> None:
    @app.post("/write", status_code=201)
    async def write(session: SessionDep) -> None:
        await abort_transaction(session)

    response = await server.post("/write")

    assert problem(response)["status"] == 500
    assert await stored_users() == 0


async def test_statement_after_the_end_of_a_transaction_is_refused(databases: None) -> None:
    async with session_scope() as session:
        await abort_transaction(session)
        with pytest.raises((TransactionFailedError, DBAPIError), match=r"swallowed|is aborted"):
            await session.execute(text("CREATE TABLE stray (id INTEGER)"))
        await session.rollback()
        session.add(new_user())

    assert await stored_users() == 1
    with pytest.raises(DBAPIError, match="stray"):
        async with session_scope() as session:
            await session.execute(text("SELECT * FROM stray"))


@pytest.mark.sqlite
async def test_error_that_harms_no_transaction_may_be_swallowed(databases: None) -> None:
    async with session_scope() as session:
        session.add(new_user())
        await session.flush()
        with pytest.raises(OperationalError):
            await session.execute(text("SELECT * FROM nowhere"))

    assert await stored_users() == 1


async def fail_in_a_statement(session: AsyncSession) -> None:
    await session.execute(text("SELECT 1 / 0"))


async def fail_in_the_driver(session: AsyncSession) -> None:
    await (await driver(session)).fetch("SELECT 1 / 0")


async def fail_in_a_copy(session: AsyncSession) -> None:
    await (await driver(session)).copy_records_to_table("users", records=[], columns=["nothing"])


@pytest.mark.postgresql
@pytest.mark.parametrize("failing", [fail_in_a_statement, fail_in_the_driver, fail_in_a_copy])
async def test_error_that_is_swallowed_makes_the_commit_fail(
    single_connection: None, failing: Any
) -> None:
    with pytest.raises(TransactionFailedError):
        async with session_scope() as session:
            session.add(new_user())
            await session.flush()
            with pytest.raises((DBAPIError, asyncpg.PostgresError)):
                await failing(session)

    assert await stored_users() == 0
    async with session_scope() as session:
        session.add(new_user())
    assert await stored_users() == 1


@pytest.mark.postgresql
async def test_session_is_usable_after_a_commit_that_the_server_has_refused(
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


@pytest.mark.postgresql
async def test_error_may_be_swallowed_within_a_savepoint(single_connection: None) -> None:
    async with session_scope() as session:
        session.add(new_user())
        with pytest.raises(DBAPIError):
            async with session.begin_nested():
                await fail_in_a_statement(session)

    assert await stored_users() == 1
