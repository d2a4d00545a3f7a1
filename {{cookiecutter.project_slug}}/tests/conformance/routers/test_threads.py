"""The service's own routes and dependencies run in the event loop."""

from collections.abc import Iterator
from importlib import import_module
from inspect import isasyncgenfunction, iscoroutinefunction
from pkgutil import iter_modules
from typing import Any

from fastapi.dependencies.models import Dependant

from app import routers


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
