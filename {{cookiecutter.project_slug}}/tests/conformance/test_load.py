"""Hundreds of concurrent clients on a pool of five: every request gets a response, nothing leaks."""

import asyncio
import json
import random
from collections.abc import AsyncGenerator
from http import HTTPStatus
from typing import Annotated

import pytest
from fastapi import Depends, FastAPI
from httpx2 import AsyncClient, Limits, Response
from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncSession

from app.core.config import DATABASES, get_settings, variable
from app.core.db import SessionDependency, get_session
from app.dependencies import SessionDep
from tests.conformance.support import is_unavailable, raise_file_limit
from tests.inspection import checked_out, stored_users
from tests.support import USERS, configure, serves, until, user_values

pytestmark = pytest.mark.load

POOL_SIZE = 5


@pytest.fixture
def small_pool(environment: pytest.MonkeyPatch, databases: None) -> None:
    configure(environment, pool_size=POOL_SIZE, max_overflow=0, pool_timeout=60)


@pytest.fixture
async def many_clients(small_pool: None, server: AsyncClient) -> AsyncGenerator[AsyncClient, None]:
    """A client that opens a connection for every concurrent request."""
    raise_file_limit()
    limits = Limits(max_connections=None)
    async with AsyncClient(base_url=server.base_url, limits=limits, timeout=60) as client:
        yield client


async def test_five_hundred_concurrent_requests_all_succeed(
    many_clients: AsyncClient,
) -> None:
    responses = await asyncio.gather(
        *(many_clients.post(USERS, json=user_values()) for _ in range(500))
    )

    assert {response.status_code for response in responses} == {HTTPStatus.CREATED}
    assert await stored_users() == 500
    assert not checked_out()


async def test_exhausted_pool_under_load_returns_503_and_recovers(
    app: FastAPI, many_clients: AsyncClient, environment: pytest.MonkeyPatch
) -> None:
    configure(environment, pool_timeout=0.2)
    held = asyncio.Semaphore(0)
    may_end = asyncio.Event()

    @app.get("/hold")
    async def hold(session: SessionDep) -> None:
        await session.execute(text("SELECT 1"))
        held.release()
        await may_end.wait()

    holding = [asyncio.create_task(many_clients.get("/hold")) for _ in range(POOL_SIZE)]
    for _ in holding:
        await held.acquire()
    async with asyncio.timeout(50):  # the pool_timeout of small_pool is a minute
        refused = await asyncio.gather(
            *(many_clients.post(USERS, json=user_values()) for _ in range(50))
        )
    may_end.set()
    released = await asyncio.gather(*holding)
    again = await asyncio.gather(*(many_clients.post(USERS, json=user_values()) for _ in holding))

    assert all(is_unavailable(response) for response in refused)
    assert statuses(released) == {HTTPStatus.OK}
    assert statuses(again) == {HTTPStatus.CREATED}
    assert await stored_users() == POOL_SIZE


PAIRS = {
    "writing and reading": (get_session(), get_session(read_only=True)),
    # {% if cookiecutter.__analytics %}
    "two databases": (get_session(), get_session("analytics")),
    "reading two databases": (
        get_session(read_only=True),
        get_session("analytics", read_only=True),
    ),
    # {% endif %}
}


@pytest.mark.parametrize("pair", PAIRS.values(), ids=PAIRS)
async def test_requests_that_need_connections_of_two_pools_do_not_deadlock(
    app: FastAPI,
    many_clients: AsyncClient,
    environment: pytest.MonkeyPatch,
    pair: tuple[SessionDependency, SessionDependency],
) -> None:
    """Each request holds the connection that another waits for, until the pool times out."""
    for database in DATABASES:
        environment.setenv(variable(database, "pool_size"), str(POOL_SIZE))
        environment.setenv(variable(database, "pool_timeout"), "1")
    get_settings.cache_clear()
    first_dependency, second_dependency = pair

    @app.get("/in-order")
    async def in_order(
        first: Annotated[AsyncSession, Depends(first_dependency, scope="function")],
        second: Annotated[AsyncSession, Depends(second_dependency, scope="function")],
    ) -> None:
        for session in (first, second):
            await session.execute(text("SELECT 1"))

    @app.get("/reversed")
    async def reversed_order(
        first: Annotated[AsyncSession, Depends(first_dependency, scope="function")],
        second: Annotated[AsyncSession, Depends(second_dependency, scope="function")],
    ) -> None:
        for session in (second, first):
            await session.execute(text("SELECT 1"))

    responses = await asyncio.gather(
        *(many_clients.get(path) for _ in range(100) for path in ("/in-order", "/reversed"))
    )

    assert statuses(responses) <= {HTTPStatus.OK, HTTPStatus.SERVICE_UNAVAILABLE}
    assert not checked_out()
    assert await serves(many_clients)


async def test_three_hundred_clients_that_disconnect_at_random_leak_nothing(
    small_pool: None, server: AsyncClient
) -> None:
    """100 clients wait for their response, and 50 disconnect at once: both cases occur on every machine."""
    raise_file_limit()
    before = len(asyncio.all_tasks())

    async def disconnect_after(seconds: float | None) -> bytes:
        """Send a request, disconnect after this time, and return the response received by then."""
        reader, writer = await asyncio.open_connection(server.base_url.host, server.base_url.port)
        body = json.dumps(user_values())
        writer.write(
            f"POST {USERS} HTTP/1.1\r\nHost: test\r\nContent-Type: application/json\r\n"
            f"Content-Length: {len(body)}\r\n\r\n{body}".encode()
        )
        response = asyncio.create_task(reader.read(1000))
        await asyncio.wait([response], timeout=seconds)
        writer.transport.abort()
        response.cancel()
        return b"" if response.cancelled() or not response.done() else response.result()

    times = [*[None] * 100, *[0.0] * 50, *(random.uniform(0, 3) for _ in range(150))]  # noqa: S311
    random.shuffle(times)
    responses = await asyncio.gather(*map(disconnect_after, times))
    await until(lambda: not checked_out(), seconds=60)
    await until(lambda: len(asyncio.all_tasks()) <= before, seconds=60)

    acknowledged = sum(response.startswith(b"HTTP/1.1 201") for response in responses)
    assert 100 <= acknowledged <= 250
    assert acknowledged <= await stored_users() <= 300
    assert (await server.post(USERS, json=user_values())).status_code == HTTPStatus.CREATED
    assert not checked_out()


def statuses(responses: list[Response]) -> set[int]:
    return {response.status_code for response in responses}
