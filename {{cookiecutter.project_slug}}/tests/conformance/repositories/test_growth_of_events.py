"""Query plans: the cost of a page of events, and of the report, does not grow with the table."""

from uuid import UUID

import pytest
from sqlalchemy import insert

from app.core.db import session_scope
from app.models import Event
from app.repositories.event import NEXT_PAGE, _counts
from tests.conformance.plans import plan, steps

ROWS = 20_000
LIMIT = 50
BUSY, QUIET = UUID(int=1), UUID(int=2)


@pytest.fixture
async def events(databases: None) -> None:
    """Many events of one user, and a few of another."""
    async with session_scope("analytics") as session:
        user_ids = [BUSY] * ROWS + [QUIET] * 10
        await session.execute(
            insert(Event), [{"name": "x", "user_id": u, "properties": {}} for u in user_ids]
        )


@pytest.mark.postgresql
async def test_page_of_events_reads_only_its_rows(events: None) -> None:
    async with session_scope("analytics") as session:
        nodes = await plan(session, NEXT_PAGE.statement, limit=LIMIT, after=ROWS - 2 * LIMIT)

    assert ["Limit", "Index Scan"] == [node["Node Type"] for node in nodes]
    assert ("pk_events", LIMIT) == (nodes[1]["Index Name"], nodes[1]["Actual Rows"])


@pytest.mark.postgresql
async def test_report_reads_no_more_events_than_its_limit(
    events: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("app.repositories.event.MAX_COUNT", 100)
    async with session_scope("analytics") as session:
        nodes = await plan(session, _counts([BUSY, QUIET]))

    [read] = [node for node in nodes if node.get("Relation Name") == "events"]
    assert "ix_events_user_id" == read["Index Name"]
    assert 110 == round(read["Actual Rows"] * read["Actual Loops"])


@pytest.mark.sqlite
async def test_report_uses_the_covering_index(events: None) -> None:
    async with session_scope("analytics") as session:
        found = await steps(session, _counts([BUSY, QUIET]))

    assert any(
        step.startswith("SEARCH events USING COVERING INDEX ix_events_user_id") for step in found
    )
