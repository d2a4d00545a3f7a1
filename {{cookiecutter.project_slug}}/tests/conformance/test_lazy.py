"""Settings are read and engines are made on first use; configuration errors are raised there."""

from contextlib import asynccontextmanager
from pathlib import Path

import pytest
from sqlalchemy import Engine, text

from app.core.config import get_settings
from app.core.db import ConfigurationError, DatabaseNotFoundError, get_session, session_scope
from tests.inspection import checked_out


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


async def test_first_session_raises_if_the_dev_url_is_not_set(
    environment: pytest.MonkeyPatch,
) -> None:
    dependency = get_session(dev=True)

    with pytest.raises(ConfigurationError, match="DEV_DATABASE_URL is not set"):
        await anext(dependency())


async def test_first_session_raises_if_the_database_is_unknown(
    environment: pytest.MonkeyPatch,
) -> None:
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
