"""The ladder: migrated databases → environment → app → client (in process), server (real socket).

A test asks for the highest rung that it needs. The service's own sessions run under all of them:
what a test changes is the URL.
"""

import os
import shutil
from collections.abc import AsyncGenerator, Iterator
from pathlib import Path

import pytest
from fastapi import FastAPI
from httpx2 import ASGITransport, AsyncClient

from app import migrations
from app.core.config import Settings, get_settings
from app.core.db import dispose_engines, get_engine
from app.main import create_app
from tests.support import serve, set_databases, sqlite_connections, until


@pytest.fixture(autouse=True)
def environment(monkeypatch: pytest.MonkeyPatch) -> Iterator[pytest.MonkeyPatch]:
    """An environment that knows nothing of the developer's own databases, nor of their .env."""
    for name in os.environ:
        if name.upper().startswith(("DATABASE", "DEV_DATABASE")):
            monkeypatch.delenv(name)
    monkeypatch.setenv("ENVIRONMENT", "test")
    monkeypatch.setitem(Settings.model_config, "env_file", None)
    get_settings.cache_clear()
    yield monkeypatch
    get_settings.cache_clear()


@pytest.fixture(scope="session")
def migrated(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with one migrated, empty file for each database."""
    folder = tmp_path_factory.mktemp("migrated")
    with pytest.MonkeyPatch.context() as patch:
        set_databases(patch, folder)
        for name in migrations.databases():
            migrations.upgrade(name)
    get_settings.cache_clear()
    return folder


@pytest.fixture
async def databases(
    migrated: Path, tmp_path: Path, environment: pytest.MonkeyPatch
) -> AsyncGenerator[None, None]:
    """Databases of the test's own. Whoever leaves a connection checked out fails here."""
    shutil.copytree(migrated, tmp_path, dirs_exist_ok=True)
    set_databases(environment, tmp_path)
    yield
    leaks = {name: get_engine(name).pool.checkedout() for name in migrations.databases()}  # type: ignore[attr-defined]
    await dispose_engines()
    assert not any(leaks.values()), f"connections still checked out: {leaks}"
    await until(lambda: sqlite_connections() == 0)


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
