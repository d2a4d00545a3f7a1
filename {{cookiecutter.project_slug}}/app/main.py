"""The application: what starts, what is mounted, what stops."""

from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager

from fastapi import FastAPI

from app import DESCRIPTION, TITLE, __version__
from app.core.config import get_settings
from app.core.db import dispose_engines
from app.core.disconnects import CancelOnDisconnect
from app.core.garbage import leave_alone_what_is_loaded
from app.core.logging import LogRequests
from app.core.problems import add_problem_handlers
from app.routers.docs import router as docs  # {%- if cookiecutter.__analytics +%}
from app.routers.events import router as events
from app.routers.reports import router as reports  # {%- endif +%}
from app.routers.users import router as users


@asynccontextmanager
async def lifespan(_: FastAPI) -> AsyncGenerator[None, None]:
    get_settings()  # a setting that is missing or wrong stops the start, not the first request
    leave_alone_what_is_loaded()
    try:
        yield
    finally:
        await dispose_engines()


def create_app() -> FastAPI:
    """Return a new application; nothing is read or opened before it starts."""
    app = FastAPI(
        title=TITLE,
        description=DESCRIPTION,
        version=__version__,
        lifespan=lifespan,
        docs_url=None,  # FastAPI's own pages load what they need from elsewhere
        redoc_url=None,
    )
    app.add_middleware(CancelOnDisconnect)
    app.add_middleware(LogRequests)  # around the other one: the last is the outermost
    add_problem_handlers(app)
    app.include_router(users)
    # {% if cookiecutter.__analytics %}
    app.include_router(events)
    app.include_router(reports)
    # {% endif %}
    app.include_router(docs)
    return app


app = create_app()
