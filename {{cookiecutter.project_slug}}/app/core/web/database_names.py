"""A start-up check: every database that a route names exists."""

from collections.abc import Iterator, Sequence
from typing import Any

from fastapi import FastAPI
from fastapi.routing import iter_route_contexts
from starlette.routing import BaseRoute

from app.core.config import get_database
from app.core.db import database_name


def check_database_names(app: FastAPI) -> None:
    """Check the names that the routes of this application have passed to `get_session`.

    Raises:
        DatabaseNotFoundError: a name is misspelt. The start fails instead of the first request.
    """
    for dependency in _dependencies(app.routes):
        name = database_name(dependency)
        if name is not None:
            get_database(name)


def _dependencies(routes: Sequence[BaseRoute], *parents: object) -> Iterator[object]:
    for context in iter_route_contexts(routes):
        route: Any = context
        mounted = getattr(route.original_route, "routes", None) or []
        if not any(mounted is each for each in (routes, *parents)):  # mounted in itself
            yield from _dependencies(mounted, routes, *parents)
        pending = [route.dependant] if getattr(route, "dependant", None) else []
        while pending:
            dependant = pending.pop()
            pending += dependant.dependencies
            yield dependant.call
