"""ReportService: it joins the users of one database with the events of another."""

from app.core.db import session_scope
from app.schemas.event import EventCreate
from app.schemas.user import UserCreate
from app.services.event import EventService
from app.services.report import ReportService
from app.services.user import UserService
from tests.support import user_values


async def test_report_counts_the_events_of_each_user_on_its_page(databases: None) -> None:
    async with session_scope() as primary, session_scope("analytics") as analytics:
        users = [
            await UserService(primary).create(UserCreate(**user_values(n)))
            for n in ("ada", "bob", "carl")
        ]
        seen = [EventCreate(name="seen", user_id=user.id) for user in (users[0], *users)]
        await EventService(analytics).create(seen[:-1])
        reports = ReportService(primary, analytics)

        one = await reports.page(2, None)
        two = await reports.page(2, one.next)

    assert [("ada", 2), ("bob", 1)] == [(item.name, item.events) for item in one.items]
    assert [("carl", 0)] == [(item.name, item.events) for item in two.items]
    assert two.next is None
