"""The application: its middleware and routers, and what runs at its start and end.

Importing this module creates nothing and reads no settings: the server calls `create_app()` when it starts. So
`create_app()` may read them, for middleware: `app.add_middleware(…, allow_origins=get_settings().cors_origins)`.
"""

import asyncio
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager, suppress

from fastapi import FastAPI
from sqlalchemy.orm import configure_mappers

from app import DESCRIPTION, TITLE, __version__
from app.core.config import get_databases, get_settings
from app.core.db import dispose_engines
from app.core.process.garbage_collection import freeze_startup_objects
from app.core.process.shutdown import graceful_shutdown
from app.core.telemetry import lifecycle as telemetry
from app.core.web.body_limit import BodyLimitMiddleware
from app.core.web.database_names import check_database_names
from app.core.web.disconnects import DisconnectMiddleware
from app.core.web.error_handlers import PROBLEM_RESPONSES, Application, add_problem_handlers
from app.core.web.head_requests import HeadMiddleware
from app.core.web.request_logging import RequestLoggingMiddleware
from app.routers import API_PREFIX
from app.routers.docs import router as docs  # {%- if cookiecutter.__analytics +%}
from app.routers.events import router as events  # {%- endif +%}
from app.routers.health import router as health  # {%- if cookiecutter.__analytics +%}
from app.routers.reports import router as reports  # {%- endif +%}
from app.routers.users import router as users
from app.services.health import HealthService

MAX_BODY_SIZE = 10 * 2**20  # bytes of a request body
SECONDS_TO_CLOSE = 5


@asynccontextmanager
async def lifespan(app: FastAPI) -> AsyncGenerator[None, None]:
    settings = get_settings()  # a wrong setting fails at startup, not in the first request
    get_databases()
    configure_mappers()  # so does a wrong model
    check_database_names(app)
    telemetry.start()
    freeze_startup_objects()
    try:
        with graceful_shutdown(settings.shutdown_delay, app.state.health.stop):
            yield
    finally:
        with suppress(TimeoutError):  # a server may no longer respond
            async with asyncio.timeout(SECONDS_TO_CLOSE):
                await dispose_engines()
        await telemetry.flush()


def create_app() -> FastAPI:
    """Return a new application. It opens no connection before it starts."""
    app = Application(
        title=TITLE,
        description=DESCRIPTION,
        version=__version__,
        lifespan=lifespan,
        docs_url=None,  # routers/docs.py has a page that loads nothing from a CDN
        redoc_url=None,
        responses=PROBLEM_RESPONSES,
        telemetry=telemetry.FASTAPI_CONFIG,
    )
    app.state.health = HealthService()
    add_problem_handlers(app)
    app.add_middleware(HeadMiddleware)
    app.add_middleware(BodyLimitMiddleware, size=MAX_BODY_SIZE)
    app.add_middleware(DisconnectMiddleware)
    app.add_middleware(RequestLoggingMiddleware)  # the last one added is the outermost
    app.include_router(health)
    app.include_router(docs)
    app.include_router(users, prefix=API_PREFIX)
    # {% if cookiecutter.__analytics %}
    app.include_router(events, prefix=API_PREFIX)
    app.include_router(reports, prefix=API_PREFIX)
    # {% endif %}
    return app


def __getattr__(name: str) -> FastAPI:
    """Create `app` on its first use, for `uvicorn app.main:app` and other tools that look for it."""
    if name != "app":
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    application: FastAPI = globals().setdefault(name, create_app())
    return application
