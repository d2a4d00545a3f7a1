"""What a route may ask for: sessions, and what the service knows of its health.

`scope="function"` is what makes FastAPI commit before the answer leaves. It is part of the key by
which FastAPI shares a session within a request, so it stands in aliases, and in aliases only.

What only reads asks for a read-only session: it costs one round trip for a statement, and the database
refuses a write. Beside a writing one in a request, it sees what is committed.
"""

from typing import Annotated

from fastapi import Depends, Request
from sqlalchemy.ext.asyncio import AsyncSession

from app.core.db import get_session
from app.services.health import HealthService

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


async def _get_health(request: Request) -> HealthService:
    health: HealthService = request.app.state.health
    return health


HealthDep = Annotated[HealthService, Depends(_get_health)]
