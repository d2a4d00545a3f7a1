"""What can be done with events."""

from sqlalchemy.ext.asyncio import AsyncSession

from app.repositories.event import EventRepository
from app.schemas.event import EventCreate, EventCursor, EventRead, EventsCreated
from app.schemas.page import Page


class EventService:
    def __init__(self, session: AsyncSession) -> None:
        self.events = EventRepository(session)

    async def create(self, batch: list[EventCreate]) -> EventsCreated:
        await self.events.add_all([event.model_dump() for event in batch])
        return EventsCreated(created=len(batch))

    async def page(self, limit: int, after: str | None) -> Page[EventRead]:
        cursor = EventCursor.decode(after)
        events = await self.events.page(limit + 1, cursor.id if cursor else None)
        page = [EventRead.model_validate(event) for event in events[:limit]]
        if len(events) == len(page):
            return Page(items=page)
        return Page(items=page, next=EventCursor.model_validate(events[limit - 1]).encode())
