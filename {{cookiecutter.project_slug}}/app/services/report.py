"""The report on users. It reads one database after the other: no snapshot spans both."""

from sqlalchemy.ext.asyncio import AsyncSession

from app.repositories.event import EventRepository
from app.schemas.page import Page
from app.schemas.report import UserActivity
from app.services.user import UserService


class ReportService:
    def __init__(self, session: AsyncSession, analytics_session: AsyncSession) -> None:
        self.users = UserService(session)
        self.events = EventRepository(analytics_session)

    async def page(self, limit: int, after: str | None) -> Page[UserActivity]:
        users = await self.users.page(limit, after)
        counts = await self.events.count_by_user([user.id for user in users.items])
        activity = [
            UserActivity(**user.model_dump(), events=counts.get(user.id, 0)) for user in users.items
        ]
        return Page(items=activity, next=users.next)
