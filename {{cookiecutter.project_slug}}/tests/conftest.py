"""The ladder: backend → databases → app → client (in process), server (real socket).

A test asks for the highest rung that it needs, and runs on PostgreSQL and on SQLite. The service's
own sessions run under all of them, with real commits: what a test changes is the URL.
"""

from collections.abc import AsyncGenerator, Iterator
from pathlib import Path

import pytest
from fastapi import FastAPI
from httpx2 import ASGITransport, AsyncClient

from app.core.config import get_settings
from app.core.db import dispose_engines
from app.main import create_app
from tests.harness.backends import KINDS, Backend
from tests.inspection import checked_out, sqlite_connections
from tests.support import (
    collect_garbage,
    configure,
    forget_environment,
    serve,
    set_databases,
    until,
)

# Each folder below tests/ may have a plugin: tests/harness/plugin.py, for example.
pytest_plugins = [
    f"tests.{path.parent.name}.plugin" for path in sorted(Path(__file__).parent.glob("*/plugin.py"))
]


@pytest.fixture(autouse=True)
def environment(monkeypatch: pytest.MonkeyPatch) -> Iterator[pytest.MonkeyPatch]:
    """An environment that knows nothing of the developer's own databases, nor of their .env."""
    forget_environment(monkeypatch)
    yield monkeypatch
    get_settings.cache_clear()
    collect_garbage()


@pytest.fixture(scope="session")
def sqlite_templates(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder for one migrated file of each database."""
    return tmp_path_factory.mktemp("templates")


@pytest.fixture
def backend(request: pytest.FixtureRequest, environment: pytest.MonkeyPatch) -> Iterator[Backend]:
    """The kind of database that the test runs on: PostgreSQL and SQLite, one after the other."""
    backend = KINDS[request.param](request)
    yield backend
    collect_garbage()
    backend.end()


@pytest.fixture
def migrated(backend: Backend, environment: pytest.MonkeyPatch) -> None:
    """Migrated databases without rows."""
    set_databases(environment, backend.migrated())
    for name, value in backend.settings().items():
        environment.setenv(name, value)


@pytest.fixture
async def databases(migrated: None) -> AsyncGenerator[None, None]:
    """The same, and whoever leaves a connection checked out fails here."""
    yield
    leaks = checked_out()
    await dispose_engines()
    assert not leaks, f"connections still checked out: {leaks}"
    await until(lambda: sqlite_connections() == 0)


@pytest.fixture
def single(environment: pytest.MonkeyPatch, databases: None) -> None:
    """One connection, so that the next session meets what the last one has left of it."""
    configure(environment, pool_size=1, pool_timeout=1)


@pytest.fixture
def new_database(backend: Backend) -> str:
    """The URL of one more database, an empty one."""
    return backend.new()


@pytest.fixture
def app(databases: None) -> FastAPI:
    """An application of the test's own: it may add routes."""
    return create_app()


@pytest.fixture
async def client(app: FastAPI) -> AsyncGenerator[AsyncClient, None]:
    """A client without a socket: quick, and blind to what happens after the answer has left."""
    transport = ASGITransport(app, raise_app_exceptions=False)
    async with (
        app.router.lifespan_context(app),
        AsyncClient(transport=transport, base_url="http://test") as client,
    ):
        yield client


@pytest.fixture
async def server(app: FastAPI) -> AsyncGenerator[AsyncClient, None]:
    """A client of a real uvicorn on a real socket, where the order of commit and answer shows."""
    async with serve(app) as client:
        yield client
