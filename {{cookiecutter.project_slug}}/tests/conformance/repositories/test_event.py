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


async def test_nobody_is_counted_beyond_a_limit(
    databases: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(event, "MOST_COUNTED", 3)
    ada = uuid4()
    async with session_scope("analytics") as session:
        events = EventRepository(session)
        await events.add_all([new_event(user_id=ada) for _ in range(5)])

        assert await events.count_by_user([ada]) == {ada: 3}


async def test_batch_costs_one_insert_whatever_its_values(databases: None) -> None:
    """Arrays of PostgreSQL and parameters have their own ways with quotes, braces and NULL."""
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
async def test_value_that_is_too_long_is_refused_and_not_cut(databases: None) -> None:
    with pytest.raises(DBAPIError, match="too long"):
        async with session_scope("analytics") as session:
            await EventRepository(session).add_all([new_event() | {"name": "x" * 201}])


async def test_json_may_be_a_list_of_whatever_shape(databases: None) -> None:
    values = [[1, 2], [[3], [4]], {"five": [6]}, None, "seven"]
    async with session_scope("analytics") as session:
        events = EventRepository(session)
        await events.add_all([new_event() | {"properties": value} for value in values])

        assert values == [event.properties for event in await events.page(9, None)]


async def test_ids_have_64_bits(databases: None) -> None:
    async with session_scope("analytics") as session:
        await session.execute(insert(Event), [new_event() | {"id": 2**62}])

        assert [2**62] == [event.id for event in await EventRepository(session).page(9, None)]
