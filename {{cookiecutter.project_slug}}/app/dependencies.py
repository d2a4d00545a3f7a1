"""Dependencies of routes: aliases for the sessions, and the health service.

FastAPI shares a session within a request only if the scope is the same everywhere, so write it in
these aliases only. With `scope="function"`, FastAPI also refuses a dependency that would outlive it.

Use a read-only session in a route that only reads: a statement costs one round trip, and the
database refuses writes. It does not see uncommitted writes of the request's other session.
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
