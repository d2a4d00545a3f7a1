"""Settings and transactions of SQLite connections (core/database/sqlite.py)."""

import pytest
from sqlalchemy import text

from app.core.db import get_engine, session_scope

pytestmark = pytest.mark.sqlite


async def test_autocommit_statement_runs_without_a_transaction(databases: None) -> None:
    engine = get_engine()
    async with engine.execution_options(isolation_level="AUTOCOMMIT").connect() as connection:
        await connection.execute(text("VACUUM"))
        await connection.execute(text("CREATE TABLE notes (id INTEGER)"))

    async with session_scope() as session:  # the same connection, now with a transaction
        await session.execute(text("INSERT INTO notes VALUES (1)"))
        await session.rollback()

        assert await session.scalar(text("SELECT count(*) FROM notes")) == 0
