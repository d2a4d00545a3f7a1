"""Fixtures that build on each other: backend → databases → app → client or server.

`client` calls the app in process, `server` over a real socket. A test requests the highest fixture
that it needs, and runs on PostgreSQL and on SQLite. The service's own sessions run in every test,
with real commits: the tests change only the URL.
"""

from collections.abc import AsyncGenerator, Iterator
from pathlib import Path

import pytest
from fastapi import FastAPI
from httpx2 import AsyncClient

from app.core.config import get_settings, variable
from app.core.db import dispose_engines
from app.main import create_app
from tests.harness.backends import KINDS, Backend
from tests.inspection import checked_out, sqlite_connections
from tests.processes import DATABASES, VARIABLES
from tests.support import (
    clear_environment,
    collect_garbage,
    configure,
    in_process,
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
    """Environment variables without the developer's own settings, databases and .env file."""
    clear_environment(monkeypatch)
    yield monkeypatch
    get_settings.cache_clear()
    collect_garbage()


@pytest.fixture(scope="session")
def sqlite_templates(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with one migrated SQLite file for each database."""
    return tmp_path_factory.mktemp("templates")


@pytest.fixture
def backend(request: pytest.FixtureRequest, environment: pytest.MonkeyPatch) -> Iterator[Backend]:
    """The kind of database that the test runs on. The test runs once for each kind."""
    backend = KINDS[request.param](request)
    yield backend
    collect_garbage()
    backend.clean_up()


@pytest.fixture
def variables(backend: Backend) -> dict[str, str]:
    """An environment with empty databases; on SQLite the default ones, which need no setting."""
    if backend.kind == "sqlite":
        return VARIABLES.copy()
    return VARIABLES | {variable(name): backend.new() for name in DATABASES}


@pytest.fixture
def migrated(backend: Backend, environment: pytest.MonkeyPatch) -> None:
    """Migrated databases without rows."""
    set_databases(environment, backend.migrated())
    for name, value in backend.settings().items():
        environment.setenv(name, value)


@pytest.fixture
async def databases(migrated: None) -> AsyncGenerator[None, None]:
    """Migrated databases without rows. A test that leaves a connection checked out fails."""
    yield
    leaks = checked_out()
    await dispose_engines()
    assert not leaks, f"connections still checked out: {leaks}; open sessions with `async with`"
    await until(lambda: sqlite_connections() == 0)


@pytest.fixture
def single_connection(environment: pytest.MonkeyPatch, databases: None) -> None:
    """A pool of one connection, so that each session reuses the connection of the previous one."""
    configure(environment, pool_size=1, max_overflow=0, pool_timeout=1)


@pytest.fixture
def new_database(backend: Backend) -> str:
    """The URL of another, empty database."""
    return backend.new()


@pytest.fixture
def app(databases: None) -> FastAPI:
    """An application for this test only, which may add routes to it."""
    return create_app()


@pytest.fixture
async def client(app: FastAPI) -> AsyncGenerator[AsyncClient, None]:
    """A client that calls the app in process: fast, but it cannot see work done after the response."""
    async with (
        app.router.lifespan_context(app),
        AsyncClient(transport=in_process(app), base_url="http://test") as client,
    ):
        yield client


@pytest.fixture
async def server(app: FastAPI) -> AsyncGenerator[AsyncClient, None]:
    """A client of a real uvicorn on a socket, which shows whether the commit precedes the response."""
    async with serve(app) as client:
        yield client
