"""What a page costs does not grow with the table."""

from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID

import pytest
from sqlalchemy import Select, insert, text
from sqlalchemy.ext.asyncio import AsyncSession

from app.core.db import session_scope  # {%- if cookiecutter.__analytics +%}
from app.models.event import Event  # {%- endif +%}
from app.models.user import User  # {%- if cookiecutter.__analytics +%}
from app.repositories.event import NEXT_PAGE as NEXT_EVENTS
from app.repositories.event import _counts  # {%- endif +%}
from app.repositories.user import NEXT_PAGE, PAGE

ROWS = 20_000
LIMIT = 50
BEGIN = datetime(2026, 1, 1, tzinfo=UTC)
FAR = {"after_time": BEGIN + timedelta(seconds=ROWS - LIMIT - 10), "after_id": UUID(int=0)}


@pytest.fixture
async def users(databases: None) -> None:
    """Many users, created a second apart, whose ids are in no order."""
    users = [
        {"name": "x", "email": f"{n}@example.com", "created_at": BEGIN + timedelta(seconds=n)}
        for n in range(ROWS)
    ]
    async with session_scope() as session:
        await session.execute(insert(User), users)


async def plan(
    session: AsyncSession, statement: Select[*tuple[Any, ...]], **values: Any
) -> list[dict[str, Any]]:
    """Run a statement on PostgreSQL; return the nodes of its plan, with what each has read."""
    await session.execute(text("ANALYZE"))
    compiled = statement.compile(dialect=session.get_bind().dialect)
    parameters = compiled.construct_params(values)
    ordered = tuple(parameters[name] for name in compiled.positiontup or ())
    explain = f"EXPLAIN (ANALYZE, FORMAT JSON) {compiled}"
    result = await (await session.connection()).exec_driver_sql(explain, ordered)
    nodes = [result.scalar_one()[0]["Plan"]]
    for node in nodes:
        nodes += node.get("Plans", [])
    return nodes


async def steps(
    session: AsyncSession, statement: Select[*tuple[Any, ...]], **values: Any
) -> list[str]:
    """Return what SQLite would do."""
    await session.execute(text("ANALYZE"))
    in_full = statement.params(values).compile(
        dialect=session.get_bind().dialect, compile_kwargs={"literal_binds": True}
    )
    return [row.detail for row in await session.execute(text(f"EXPLAIN QUERY PLAN {in_full}"))]


PAGES = {"first": (PAGE, {}), "far": (NEXT_PAGE, FAR)}


@pytest.mark.postgresql
@pytest.mark.parametrize("page", PAGES)
async def test_page_of_users_reads_no_more_than_its_rows(users: None, page: str) -> None:
    statement, key = PAGES[page]
    async with session_scope() as session:
        nodes = await plan(session, statement, limit=LIMIT, **key)

    assert ["Limit", "Index Scan"] == [node["Node Type"] for node in nodes]
    assert "ix_users_created_at_id" == nodes[1]["Index Name"]
    assert LIMIT == nodes[1]["Actual Rows"]
    assert 0 == nodes[1].get("Rows Removed by Filter", 0)


@pytest.mark.sqlite
@pytest.mark.parametrize("page", PAGES)
async def test_page_of_users_follows_its_index(users: None, page: str) -> None:
    statement, key = PAGES[page]
    async with session_scope() as session:
        [step] = await steps(session, statement, limit=LIMIT, **key)

    verb = "SEARCH" if key else "SCAN"
    assert step.startswith(f"{verb} users USING INDEX ix_users_created_at_id")


# {% if cookiecutter.__analytics %}
BUSY, QUIET = UUID(int=1), UUID(int=2)


@pytest.fixture
async def events(databases: None) -> None:
    """Many events of one user, and a few of another."""
    async with session_scope("analytics") as session:
        of = [BUSY] * ROWS + [QUIET] * 10
        await session.execute(
            insert(Event), [{"name": "x", "user_id": u, "properties": {}} for u in of]
        )


@pytest.mark.postgresql
async def test_page_of_events_reads_no_more_than_its_rows(events: None) -> None:
    async with session_scope("analytics") as session:
        nodes = await plan(session, NEXT_EVENTS, limit=LIMIT, after=ROWS - 2 * LIMIT)

    assert ["Limit", "Index Scan"] == [node["Node Type"] for node in nodes]
    assert ("pk_events", LIMIT) == (nodes[1]["Index Name"], nodes[1]["Actual Rows"])


@pytest.mark.postgresql
async def test_report_counts_no_further_than_its_limit(
    events: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("app.repositories.event.MOST_COUNTED", 100)
    async with session_scope("analytics") as session:
        nodes = await plan(session, _counts([BUSY, QUIET]))

    [read] = [node for node in nodes if node.get("Relation Name") == "events"]
    assert "ix_events_user_id" == read["Index Name"]
    assert 110 == round(read["Actual Rows"] * read["Actual Loops"])


@pytest.mark.sqlite
async def test_report_counts_along_its_index(events: None) -> None:
    async with session_scope("analytics") as session:
        found = await steps(session, _counts([BUSY, QUIET]))

    assert any(
        step.startswith("SEARCH events USING COVERING INDEX ix_events_user_id") for step in found
    )


# {% endif %}
