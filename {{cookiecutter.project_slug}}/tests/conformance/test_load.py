"""Many clients at once, on a pool of five: none is forgotten, and nothing stays behind."""

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
from tests.inspection import checked_out, stored_users
from tests.support import configure, new_email, raise_file_limit, serves, until

pytestmark = pytest.mark.load

POOL_SIZE = 5


@pytest.fixture
def small_pool(environment: pytest.MonkeyPatch, databases: None) -> None:
    configure(environment, pool_size=POOL_SIZE, max_overflow=0, pool_timeout=60)


@pytest.fixture
async def crowd(small_pool: None, server: AsyncClient) -> AsyncGenerator[AsyncClient, None]:
    """A client that opens as many connections as it has requests."""
    raise_file_limit()
    limits = Limits(max_connections=None)
    async with AsyncClient(base_url=server.base_url, limits=limits, timeout=60) as client:
        yield client


def user() -> dict[str, str]:
    return {"name": "Ada", "email": new_email()}


async def test_five_hundred_requests_at_once_are_all_answered_and_stored(
    crowd: AsyncClient,
) -> None:
    responses = await asyncio.gather(*(crowd.post("/users", json=user()) for _ in range(500)))

    assert {response.status_code for response in responses} == {HTTPStatus.CREATED}
    assert await stored_users() == 500
    assert not checked_out()


async def test_pool_that_is_exhausted_under_load_is_an_answer_to_try_again_and_recovers(
    app: FastAPI, crowd: AsyncClient, environment: pytest.MonkeyPatch
) -> None:
    configure(environment, pool_timeout=0.2)
    held = asyncio.Semaphore(0)
    free = asyncio.Event()

    @app.get("/hold")
    async def hold(session: SessionDep) -> None:
        await session.execute(text("SELECT 1"))
        held.release()
        await free.wait()

    holding = [asyncio.create_task(crowd.get("/hold")) for _ in range(POOL_SIZE)]
    for _ in holding:
        await held.acquire()
    async with asyncio.timeout(10):  # small_pool would have them wait for a minute
        refused = await asyncio.gather(*(crowd.post("/users", json=user()) for _ in range(50)))
    free.set()
    released = await asyncio.gather(*holding)
    again = await asyncio.gather(*(crowd.post("/users", json=user()) for _ in holding))

    assert {(response.status_code, response.headers["retry-after"]) for response in refused} == {
        (HTTPStatus.SERVICE_UNAVAILABLE, "1")
    }
    assert statuses(released) == {HTTPStatus.OK}
    assert statuses(again) == {HTTPStatus.CREATED}
    assert await stored_users() == POOL_SIZE


PAIRS = {
    "writing and reading": (get_session(), get_session(read_only=True)),
    # {% if cookiecutter.__analytics %}
    "two databases": (get_session(), get_session("analytics")),
    "two databases that are read": (
        get_session(read_only=True),
        get_session("analytics", read_only=True),
    ),
    # {% endif %}
}


@pytest.mark.parametrize("pair", PAIRS.values(), ids=PAIRS)
async def test_requests_that_take_connections_of_two_pools_in_any_order_all_end(
    app: FastAPI,
    crowd: AsyncClient,
    environment: pytest.MonkeyPatch,
    pair: tuple[SessionDependency, SessionDependency],
) -> None:
    """Each holds what the other waits for, until the pool's time is over."""
    for database in DATABASES:
        environment.setenv(variable(database, "pool_size"), str(POOL_SIZE))
        environment.setenv(variable(database, "pool_timeout"), "1")
    get_settings.cache_clear()
    one, other = pair

    @app.get("/forth")
    async def forth(
        first: Annotated[AsyncSession, Depends(one, scope="function")],
        second: Annotated[AsyncSession, Depends(other, scope="function")],
    ) -> None:
        for session in (first, second):
            await session.execute(text("SELECT 1"))

    @app.get("/back")
    async def back(
        first: Annotated[AsyncSession, Depends(one, scope="function")],
        second: Annotated[AsyncSession, Depends(other, scope="function")],
    ) -> None:
        for session in (second, first):
            await session.execute(text("SELECT 1"))

    async with asyncio.timeout(10):
        responses = await asyncio.gather(
            *(crowd.get(path) for _ in range(100) for path in ("/forth", "/back"))
        )

    assert statuses(responses) <= {HTTPStatus.OK, HTTPStatus.SERVICE_UNAVAILABLE}
    assert not checked_out()
    assert await serves(crowd)


async def test_three_hundred_clients_that_leave_at_random_moments_leave_nothing_behind(
    small_pool: None, server: AsyncClient
) -> None:
    raise_file_limit()
    before = len(asyncio.all_tasks())

    async def leave(after: float) -> bytes:
        """Return what was answered before this many seconds were over."""
        reader, writer = await asyncio.open_connection(server.base_url.host, server.base_url.port)
        body = json.dumps(user())
        writer.write(
            "POST /users HTTP/1.1\r\nHost: test\r\nContent-Type: application/json\r\n"
            f"Content-Length: {len(body)}\r\n\r\n{body}".encode()
        )
        response = asyncio.create_task(reader.read(1000))
        await asyncio.wait([response], timeout=after)
        writer.transport.abort()
        response.cancel()
        return b"" if response.cancelled() or not response.done() else response.result()

    responses = await asyncio.gather(*(leave(random.uniform(0, 3)) for _ in range(300)))  # noqa: S311
    await until(lambda: not checked_out())
    await until(lambda: len(asyncio.all_tasks()) <= before)

    acknowledged = sum(response.startswith(b"HTTP/1.1 201") for response in responses)
    assert 0 < acknowledged < 300
    assert acknowledged <= await stored_users() <= 300
    assert (await server.post("/users", json=user())).status_code == HTTPStatus.CREATED
    assert not checked_out()


def statuses(responses: list[Response]) -> set[int]:
    return {response.status_code for response in responses}
