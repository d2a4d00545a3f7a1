"""What a route asks for: the only file that joins rooms.

`scope="function"` is what makes FastAPI commit before the answer leaves. It is part of the key by
which FastAPI shares a session within a request, so it stands in aliases, and in aliases only.
"""

from typing import Annotated

from fastapi import Depends
from sqlalchemy.ext.asyncio import AsyncSession

from app.core.db import get_session  # {%- if cookiecutter.__analytics +%}
from app.services.event import EventService
from app.services.report import ReportService  # {%- endif +%}
from app.services.user import UserService

SessionDep = Annotated[AsyncSession, Depends(get_session(), scope="function")]
PrimarySessionDep = SessionDep
ReadSessionDep = Annotated[AsyncSession, Depends(get_session(read_only=True), scope="function")]
DevSessionDep = Annotated[AsyncSession, Depends(get_session(dev=True), scope="function")]
# {% if cookiecutter.__analytics %}
AnalyticsSessionDep = Annotated[AsyncSession, Depends(get_session("analytics"), scope="function")]
AnalyticsReadSessionDep = Annotated[
    AsyncSession, Depends(get_session("analytics", read_only=True), scope="function")
]
# {% endif %}


async def get_user_service(session: SessionDep) -> UserService:
    return UserService(session)


async def get_user_reader(session: ReadSessionDep) -> UserService:
    return UserService(session)


UserServiceDep = Annotated[UserService, Depends(get_user_service)]
UserReaderDep = Annotated[UserService, Depends(get_user_reader)]
# {% if cookiecutter.__analytics %}


async def get_event_service(session: AnalyticsSessionDep) -> EventService:
    return EventService(session)


async def get_event_reader(session: AnalyticsReadSessionDep) -> EventService:
    return EventService(session)


async def get_report_reader(
    session: ReadSessionDep, analytics_session: AnalyticsReadSessionDep
) -> ReportService:
    return ReportService(session, analytics_session)


EventServiceDep = Annotated[EventService, Depends(get_event_service)]
EventReaderDep = Annotated[EventService, Depends(get_event_reader)]
ReportReaderDep = Annotated[ReportService, Depends(get_report_reader)]
# {% endif %}
