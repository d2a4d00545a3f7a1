"""EventRepository: counts and the export."""

from typing import Any
from uuid import uuid4

from sqlalchemy import text

from app.core.db import session_scope
from app.repositories.event import EventRepository
from app.schemas.event import EventCreate


def new_event(**values: Any) -> dict[str, Any]:
    return vars(EventCreate(name="seen", **values))


async def test_events_are_counted_by_user(databases: None) -> None:
    ada, bob, carl = (uuid4() for _ in range(3))
    async with session_scope("analytics") as session:
        events = EventRepository(session)
        await events.add_all([new_event(user_id=user) for user in (ada, ada, bob, carl, None)])
        nobody = uuid4()

        assert await events.count_by_user([ada, bob, nobody]) == {ada: 2, bob: 1, nobody: 0}
        assert await events.count_by_user([]) == {}


async def test_export_yields_every_event_in_chunks(databases: None) -> None:
    async with session_scope("analytics") as session:
        await EventRepository(session).add_all([new_event() for _ in range(2_500)])

    async with session_scope("analytics", read_only=True) as session:
        sizes = [len(rows) async for rows in EventRepository(session).all()]
        rest = await session.scalar(text("SELECT count(*) FROM events"))

    assert ([1_000, 1_000, 500], 2_500) == (sizes, rest)
