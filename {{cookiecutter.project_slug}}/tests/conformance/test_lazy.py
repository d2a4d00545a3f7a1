"""Settings are read and engines are made on first use; configuration errors are raised there."""

import subprocess
import sys
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
from sqlalchemy import Engine, text
from sqlalchemy.exc import DBAPIError

from app.core.config import get_settings
from app.core.db import ConfigurationError, DatabaseNotFoundError, get_session, session_scope
from tests.inspection import checked_out


def test_import_and_aliases_open_no_connection_and_read_no_settings(tmp_path: Path) -> None:
    code = (
        "import os, sys\n"
        "opened = []\n"
        "events = 'socket.connect', 'socket.getaddrinfo', 'sqlite3.connect'\n"
        "sys.addaudithook(lambda event, _: event in events and opened.append(event))\n"
        "import app.main, app.dependencies\n"
        "from app.core.config import get_settings\n"
        "from app.core.db import get_session\n"
        "from tests.conformance.inspection import engine_loops\n"
        "get_session('nowhere', dev=True, read_only=True)\n"
        "assert not get_settings.cache_info().currsize\n"
        "os.environ['ENVIRONMENT'] = 'test'\n"
        "app.main.create_app().openapi()\n"
        "assert not opened, opened\n"
        "assert not engine_loops()\n"
    )
    # An invalid value: code that reads the settings fails. `create_app` may read them.
    environment = {"ENVIRONMENT": "nowhere", "PYTHONPATH": str(Path(__file__).parents[2])}
    subprocess.run([sys.executable, "-c", code], check=True, cwd=tmp_path, env=environment)

    assert not list(tmp_path.iterdir())


async def test_session_connects_on_its_first_statement(databases: None) -> None:
    async with session_scope() as session:
        assert not checked_out()
        await session.execute(text("SELECT 1"))

        assert checked_out()


async def test_environment_is_read_by_the_first_session_and_again_after_cache_clear(
    environment: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    dependency = get_session()

    async def database() -> str | None:
        """Return the file that a new session uses."""
        async with asynccontextmanager(dependency)() as session:
            bind = session.get_bind()
            assert isinstance(bind, Engine)
            return bind.url.database

    environment.setenv("DATABASE_URL", f"sqlite:///{tmp_path}/one.db")
    assert await database() == f"{tmp_path}/one.db"
    environment.setenv("DATABASE_URL", f"sqlite:///{tmp_path}/two.db")
    assert await database() == f"{tmp_path}/one.db"
    get_settings.cache_clear()
    assert await database() == f"{tmp_path}/two.db"


async def test_dev_session_uses_the_dev_url(
    databases: None, new_database: str, environment: pytest.MonkeyPatch
) -> None:
    environment.setenv("DEV_DATABASE_URL", new_database)
    get_settings.cache_clear()

    async with session_scope(dev=True) as session:
        await session.execute(text("CREATE TABLE only_in_dev (id INTEGER)"))
    with pytest.raises(DBAPIError, match="only_in_dev"):
        async with session_scope() as session:
            await session.execute(text("SELECT * FROM only_in_dev"))


async def test_first_session_raises_if_the_dev_url_is_not_set(databases: None) -> None:
    dependency = get_session(dev=True)

    with pytest.raises(ConfigurationError, match="DEV_DATABASE_URL is not set"):
        await anext(dependency())


async def test_first_session_raises_if_the_database_is_unknown(databases: None) -> None:
    dependency = get_session("nope")

    with pytest.raises(DatabaseNotFoundError, match=r"no database 'nope'; there are: .*primary"):
        await anext(dependency())


async def test_first_session_raises_if_the_database_is_not_supported(
    environment: pytest.MonkeyPatch,
) -> None:
    environment.setenv("DATABASE_URL", "mysql://u:hidden@h/d")
    dependency = get_session()

    with pytest.raises(ValueError, match="'mysql' is not supported: write postgresql:") as error:
        await anext(dependency())

    assert "hidden" not in str(error.value)
