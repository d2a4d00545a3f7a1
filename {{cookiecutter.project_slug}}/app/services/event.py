"""Operations on events."""

from collections.abc import AsyncGenerator

from pydantic_core import to_json
from sqlalchemy.ext.asyncio import AsyncSession

from app.core.db import session_scope
from app.repositories.event import EventRepository
from app.schemas.event import EventCreate, EventCursor, EventPage, EventsCreated


class EventService:
    def __init__(self, session: AsyncSession) -> None:
        self.events = EventRepository(session)

    async def create(self, batch: list[EventCreate]) -> EventsCreated:
        await self.events.add_all([vars(event) for event in batch])
        return EventsCreated(created=len(batch))

    async def page(self, limit: int, after: str | None) -> EventPage:
        cursor = EventCursor.decode(after)
        events = await self.events.page(limit + 1, cursor.id if cursor else None)
        return EventPage.from_rows(events, limit, EventCursor)


async def export_events() -> AsyncGenerator[bytes, None]:
    """Yield all events as NDJSON, 1,000 at a time.

    It opens its own session, because a request's session ends before the response is streamed.
    """
    async with session_scope("analytics", read_only=True) as session:
        async for rows in EventRepository(session).all():
            fields = rows[0]._fields
            yield b"".join(to_json(dict(zip(fields, row, strict=True))) + b"\n" for row in rows)
