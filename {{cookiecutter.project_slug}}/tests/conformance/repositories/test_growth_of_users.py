"""Query plans: the cost of a page of users does not grow with the table."""

from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID

import pytest
from sqlalchemy import insert

from app.core.db import session_scope
from app.models import User
from app.repositories.user import NEXT_PAGE, PAGE
from tests.conformance.plans import plan, steps
from tests.support import user_values

ROWS = 20_000
LIMIT = 50
BEGIN = datetime(2026, 1, 1, tzinfo=UTC)
FAR = {"after_time": BEGIN + timedelta(seconds=ROWS - LIMIT - 10), "after_id": UUID(int=0)}
PAGES: dict[str, tuple[Any, dict[str, Any]]] = {"first": (PAGE, {}), "far": (NEXT_PAGE, FAR)}


@pytest.fixture
async def users(databases: None) -> None:
    """Many users, created one second apart, with random ids."""
    users = [user_values("x", created_at=BEGIN + timedelta(seconds=n)) for n in range(ROWS)]
    async with session_scope() as session:
        await session.execute(insert(User), users)


@pytest.mark.postgresql
@pytest.mark.parametrize("page", PAGES)
async def test_page_of_users_reads_only_its_rows(users: None, page: str) -> None:
    statement, key = PAGES[page]
    async with session_scope() as session:
        nodes = await plan(session, statement.statement, limit=LIMIT, **key)

    assert ["Limit", "Index Scan"] == [node["Node Type"] for node in nodes]
    assert "ix_users_created_at_id" == nodes[1]["Index Name"]
    assert LIMIT == nodes[1]["Actual Rows"]
    assert 0 == nodes[1].get("Rows Removed by Filter", 0)


@pytest.mark.sqlite
@pytest.mark.parametrize("page", PAGES)
async def test_page_of_users_uses_its_index(users: None, page: str) -> None:
    statement, key = PAGES[page]
    async with session_scope() as session:
        [step] = await steps(session, statement.statement, limit=LIMIT, **key)

    verb = "SEARCH" if key else "SCAN"
    assert step.startswith(f"{verb} users USING INDEX ix_users_created_at_id")
