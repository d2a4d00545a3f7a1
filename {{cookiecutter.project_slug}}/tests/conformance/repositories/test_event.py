"""Events: one INSERT for a batch, odd JSON, 64-bit ids, an export from a server-side cursor."""

from typing import Any
from uuid import uuid4

import pytest
from sqlalchemy import insert
from sqlalchemy.exc import DBAPIError

from app.core.db import session_scope
from app.models import Event
from app.repositories import event
from app.repositories.event import EventRepository
from app.schemas.event import EventCreate


def new_event(**values: Any) -> dict[str, Any]:
    return vars(EventCreate(name="seen", **values))


async def test_events_keep_the_order_of_their_batch(databases: None) -> None:
    names = [f"event {n}" for n in range(2_000)]
    async with session_scope("analytics") as session:
        events = EventRepository(session)
        await events.add_all([new_event() | {"name": name} for name in names])

        assert names == [event.name for event in await events.page(2_000, None)]


async def test_count_of_a_user_stops_at_the_limit(
    databases: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(event, "MAX_COUNT", 3)
    ada = uuid4()
    async with session_scope("analytics") as session:
        events = EventRepository(session)
        await events.add_all([new_event(user_id=ada) for _ in range(5)])

        assert await events.count_by_user([ada]) == {ada: 3}


async def test_batch_stores_quotes_braces_and_null_unchanged(databases: None) -> None:
    """Array literals of PostgreSQL give these characters a meaning."""
    odd = ["NULL", "{}", '"', "\\", "a,b", "'", "é🙂", "$1"]
    batch = [
        new_event(properties={"key": name, name: [None, 1.5]}) | {"name": name} for name in odd
    ]
    async with session_scope("analytics") as session:
        events = EventRepository(session)
        await events.add_all(batch)

        stored = [
            {key: row._mapping[key] for key in batch[0]} for row in await events.page(9, None)
        ]

    assert batch == stored


@pytest.mark.postgresql
async def test_too_long_value_is_refused_and_not_truncated(databases: None) -> None:
    with pytest.raises(DBAPIError, match="too long"):
        async with session_scope("analytics") as session:
            await EventRepository(session).add_all([new_event() | {"name": "x" * 201}])


async def test_properties_can_be_any_json_value(databases: None) -> None:
    values = [[1, 2], [[3], [4]], {"five": [6]}, None, "seven"]
    async with session_scope("analytics") as session:
        events = EventRepository(session)
        await events.add_all([new_event() | {"properties": value} for value in values])

        assert values == [event.properties for event in await events.page(9, None)]


async def test_ids_have_64_bits(databases: None) -> None:
    async with session_scope("analytics") as session:
        await session.execute(insert(Event), [new_event() | {"id": 2**62}])

        assert [2**62] == [event.id for event in await EventRepository(session).page(9, None)]
