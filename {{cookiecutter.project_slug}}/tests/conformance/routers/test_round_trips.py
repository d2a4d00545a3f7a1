"""How many statements and network round trips each route needs."""

import os
from collections.abc import AsyncGenerator, Iterator
from contextlib import AsyncExitStack, contextmanager
from typing import Any, NamedTuple

import pytest
from httpx2 import AsyncClient
from sqlalchemy import Engine, event

from app.core.config import DATABASES, variable
from app.core.db import dispose_engines
from app.routers import API_PREFIX
from tests.conformance.harness.proxy import Proxy
from tests.support import USERS, set_databases, user_values


class Request(NamedTuple):
    method: str
    path: str
    statements: int  # without BEGIN and COMMIT
    round_trips: int
    body: Any = None

    @property
    def name(self) -> str:
        return f"{self.method} {self.path}"


REQUESTS = [
    Request("GET", API_PREFIX + "/users/{id}", 1, 1),
    Request("GET", USERS, 1, 1),
    Request("GET", USERS + "?limit=1&after={after}", 1, 1),
    Request("POST", USERS, 1, 3, user_values()),
    Request("PATCH", API_PREFIX + "/users/{id}", 1, 3, {"name": "Grace", "version": 1}),
    Request("DELETE", API_PREFIX + "/users/{id}", 1, 3),
    # {% if cookiecutter.__analytics %}
    Request("GET", f"{API_PREFIX}/analytics/events", 1, 1),
    Request("POST", f"{API_PREFIX}/analytics/events", 1, 3, [{"name": "seen"}, {"name": "heard"}]),
    Request("GET", f"{API_PREFIX}/analytics/report?limit=2", 2, 2),
    # {% endif %}
]


@contextmanager
def counted() -> Iterator[list[str]]:
    """Yield a list that collects the statements of all engines."""
    statements: list[str] = []

    def note(_: Any, cursor: Any, statement: str, *others: object) -> None:
        if statement != "BEGIN":
            statements.append(statement)

    event.listen(Engine, "before_cursor_execute", note)
    try:
        yield statements
    finally:
        event.remove(Engine, "before_cursor_execute", note)


async def send(client: AsyncClient, request: Request) -> None:
    """Create users, then send a request about them."""
    path, body = await prepare(client, request)
    response = await client.request(request.method, path, json=body)
    assert response.is_success, response.text


async def prepare(client: AsyncClient, request: Request) -> tuple[str, Any]:
    """Create users; return path and body of a request about them."""
    new = [user_values() for _ in range(2)]
    users = [(await client.post(USERS, json=user)).json() for user in new]
    after = (await client.get(f"{USERS}?limit=1")).json()["next"]
    body = request.body
    if isinstance(body, dict) and "email" in body:
        body = body | user_values()
    return request.path.format(id=users[0]["id"], after=after), body


async def test_number_of_statements(client: AsyncClient) -> None:
    numbers = {}
    for request in REQUESTS:
        path, body = await prepare(client, request)

        with counted() as statements:
            response = await client.request(request.method, path, json=body)

        assert response.is_success, (request, response.text)
        numbers[request.name] = len(statements)

    assert numbers == {request.name: request.statements for request in REQUESTS}


@pytest.fixture
async def proxies(
    databases: None, environment: pytest.MonkeyPatch
) -> AsyncGenerator[list[Proxy], None]:
    """Proxies between the service and its databases, which count round trips."""
    async with AsyncExitStack() as stack:
        proxies = {
            name: await stack.enter_async_context(Proxy(os.environ[variable(name)]))
            for name in DATABASES
        }
        set_databases(environment, {name: proxy.url for name, proxy in proxies.items()})
        yield [*proxies.values()]
        await dispose_engines()


@pytest.mark.postgresql
async def test_number_of_round_trips(proxies: list[Proxy], client: AsyncClient) -> None:
    numbers = {}
    for request in REQUESTS:
        await send(client, request)  # opens the connections and prepares the statements
        path, body = await prepare(client, request)
        before = sum(proxy.round_trips for proxy in proxies)

        response = await client.request(request.method, path, json=body)

        assert response.is_success, (request, response.text)
        numbers[request.name] = sum(proxy.round_trips for proxy in proxies) - before

    assert numbers == {request.name: request.round_trips for request in REQUESTS}
