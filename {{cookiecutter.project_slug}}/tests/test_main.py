"""The application as it starts, is described and stops."""

import pytest
from fastapi import FastAPI
from httpx2 import AsyncClient

from app import DESCRIPTION, TITLE, __version__
from app.core.db import get_engine
from app.core.errors import ConfigurationError
from app.main import create_app
from tests.inspection import connections, nobody_is_connected
from tests.support import until


def test_description_of_the_api_names_the_project() -> None:
    info = create_app().openapi()["info"]

    assert (TITLE, DESCRIPTION, __version__) == (
        info["title"],
        info["description"],
        info["version"],
    )


async def test_applications_are_independent_of_each_other() -> None:
    assert create_app() is not create_app()


async def test_setting_that_is_missing_stops_the_start(environment: pytest.MonkeyPatch) -> None:
    environment.setenv("ENVIRONMENT", "production")
    app = create_app()

    with pytest.raises(ConfigurationError, match="set DATABASES__PRIMARY__DATABASE_URL"):
        async with app.router.lifespan_context(app):
            pass


async def test_stop_closes_every_connection(app: FastAPI, databases: None) -> None:
    async with app.router.lifespan_context(app):
        async with get_engine().connect():
            pass
        assert await connections() == 1

    await until(nobody_is_connected)


async def test_documentation_is_served(client: AsyncClient) -> None:
    assert (await client.get("/openapi.json")).status_code == 200
    assert (await client.get("/docs")).status_code == 200
