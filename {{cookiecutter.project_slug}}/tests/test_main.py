"""The application: startup and shutdown."""

import pytest
from fastapi import FastAPI

from app.core.db import ConfigurationError, get_engine
from app.main import create_app
from tests.inspection import connections, nobody_is_connected
from tests.support import set_production, until


async def test_missing_setting_fails_at_startup(environment: pytest.MonkeyPatch) -> None:
    set_production(environment)

    with pytest.raises(ConfigurationError, match="set DATABASES__PRIMARY__DATABASE_URL"):
        app = create_app()
        async with app.router.lifespan_context(app):
            pass


async def test_shutdown_closes_every_connection(app: FastAPI, databases: None) -> None:
    async with app.router.lifespan_context(app):
        async with get_engine().connect():
            pass
        assert await connections() == 1

    await until(nobody_is_connected)
