"""SQL for events."""

from collections.abc import Sequence
from typing import Any
from uuid import UUID

from sqlalchemy import func, insert, select
from sqlalchemy.ext.asyncio import AsyncSession

from app.models.event import Event


class EventRepository:
    def __init__(self, session: AsyncSession) -> None:
        self.session = session

    async def add_all(self, events: list[dict[str, Any]]) -> None:
        await self.session.execute(insert(Event), events)

    async def page(self, limit: int, after: int | None) -> Sequence[Event]:
        """Return the events in the order of their ids, from behind the id `after`."""
        statement = select(Event).order_by(Event.id).limit(limit)
        if after is not None:
            statement = statement.where(Event.id > after)
        return (await self.session.scalars(statement)).all()

    async def count_by_user(self, user_ids: Sequence[UUID]) -> dict[UUID, int]:
        """Return how many events each of these users has; who has none is left out."""
        statement = (
            select(Event.user_id, func.count())
            .where(Event.user_id.in_(user_ids))
            .group_by(Event.user_id)
        )
        rows = await self.session.execute(statement)
        return {user_id: count for user_id, count in rows if user_id is not None}
