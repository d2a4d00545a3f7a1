from uuid import uuid4

from app.core.db import session_scope
from app.repositories.event import EventRepository


async def test_events_are_counted_by_user(databases: None) -> None:
    ada, bob, carl = (uuid4() for _ in range(3))
    async with session_scope("analytics") as session:
        events = EventRepository(session)
        await events.add_all(
            [{"name": "seen", "user_id": user} for user in (ada, ada, bob, carl, None)]
        )

        assert await events.count_by_user([ada, bob]) == {ada: 2, bob: 1}
        assert await events.count_by_user([]) == {}


async def test_ids_have_64_bits(databases: None) -> None:
    async with session_scope("analytics") as session:
        events = EventRepository(session)
        await events.add_all([{"id": 2**62, "name": "far"}])

        assert [event.id for event in await events.page(9, None)] == [2**62]
