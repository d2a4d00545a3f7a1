"""The service's own routes and dependencies run in the event loop."""

from collections.abc import Iterator
from functools import partial
from inspect import isasyncgenfunction, isclass, iscoroutinefunction, unwrap
from typing import Any

import pytest
from fastapi import Depends, FastAPI, Request
from fastapi.dependencies.models import Dependant
from fastapi.routing import iter_route_contexts
from fastapi.security import APIKeyHeader, HTTPBearer, OAuth2PasswordBearer

# Routes and dependencies, by name, that must run in a thread: they call a library that blocks.
BLOCKING: set[str] = set()


def is_async(call: Any) -> bool:
    """Return whether FastAPI awaits the call. It runs functions that are not async, and class constructors, in a thread."""
    call = unwrap(call)
    functions = [] if isclass(call) else [call, getattr(call, "__call__", None)]  # noqa: B004
    return any(iscoroutinefunction(f) or isasyncgenfunction(f) for f in functions)


def in_threads(app: FastAPI) -> Iterator[str]:
    """Yield a sentence for each route or dependency of the application that runs in a thread."""

    def calls(dependant: Dependant) -> Iterator[Any]:
        yield dependant.call
        for dependency in dependant.dependencies:
            yield from calls(dependency)

    for route in iter_route_contexts(app.routes):
        dependant = getattr(route, "dependant", None)
        for call in calls(dependant) if dependant else ():
            function = call.func if isinstance(call, partial) else call
            name = getattr(function, "__qualname__", type(function).__qualname__)
            if not is_async(call) and name not in BLOCKING:
                yield (
                    f"{route.path} runs {name} of {function.__module__} in a thread: "
                    "write it as `async def`, or add its name to BLOCKING in tests/conformance/routers/test_threads.py"
                )


def test_routes_and_dependencies_do_not_use_threads(app: FastAPI) -> None:
    found = [*in_threads(app)]
    assert not found, "\n".join(found)


async def _asynchronous() -> None:
    """Run in the event loop."""


def _synchronous() -> None:
    """Run in a thread."""


class _Blocking:
    def __call__(self) -> None:
        """Run in a thread."""


class _Constructed:
    def __init__(self, request: Request) -> None:
        self.request = request


@pytest.mark.parametrize(
    ("dependency", "expected"),
    [
        (_asynchronous, None),
        (partial(_asynchronous), None),
        (APIKeyHeader(name="X-Key"), None),
        (HTTPBearer(), None),
        (OAuth2PasswordBearer(tokenUrl="token"), None),
        (_synchronous, "_synchronous"),
        (partial(_synchronous), "_synchronous"),
        (_Blocking(), "_Blocking"),
        (_Constructed, "_Constructed"),
    ],
    ids=lambda value: getattr(value, "__name__", type(value).__name__),
)
def test_thread_is_reported_with_the_route(dependency: Any, expected: str | None) -> None:
    app = FastAPI(openapi_url=None)

    @app.get("/path", dependencies=[Depends(dependency)])
    async def route() -> None:
        """Do nothing."""

    found = [*in_threads(app)]

    assert len(found) == bool(expected)
    assert not expected or found[0].startswith(f"/path runs {expected} of {__name__} in a thread: ")
