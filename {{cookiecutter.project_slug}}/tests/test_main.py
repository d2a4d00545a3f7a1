"""The application: startup, OpenAPI metadata, shutdown and routes."""

from collections.abc import Iterator
from importlib import import_module
from inspect import isasyncgenfunction, iscoroutinefunction
from pkgutil import iter_modules
from typing import Any

import pytest
from fastapi import FastAPI
from fastapi.dependencies.models import Dependant

from app import DESCRIPTION, TITLE, __version__, routers
from app.core.db import ConfigurationError, get_engine
from app.main import create_app
from tests.inspection import connections, nobody_is_connected
from tests.support import until


def test_openapi_schema_names_the_project() -> None:
    info = create_app().openapi()["info"]

    expected = {"title": TITLE, "description": DESCRIPTION, "version": __version__}
    assert expected.items() <= info.items()


async def test_missing_setting_fails_at_startup(environment: pytest.MonkeyPatch) -> None:
    environment.setenv("ENVIRONMENT", "production")
    app = create_app()

    with pytest.raises(ConfigurationError, match="set DATABASES__PRIMARY__DATABASE_URL"):
        async with app.router.lifespan_context(app):
            pass


async def test_shutdown_closes_every_connection(app: FastAPI, databases: None) -> None:
    async with app.router.lifespan_context(app):
        async with get_engine().connect():
            pass
        assert await connections() == 1

    await until(nobody_is_connected)


def test_routes_and_dependencies_do_not_use_threads() -> None:
    """FastAPI runs functions that are not async, and class constructors, in a thread."""

    def calls(dependant: Dependant) -> Iterator[Any]:
        yield dependant.call
        for dependency in dependant.dependencies:
            yield from calls(dependency)

    modules = [import_module(f"app.routers.{m.name}") for m in iter_modules(routers.__path__)]
    routes = [route for module in modules for route in module.router.routes]
    found = [call for route in routes for call in calls(route.dependant)]

    assert len(found) > len(routes)
    assert not [
        call for call in found if not (iscoroutinefunction(call) or isasyncgenfunction(call))
    ]
