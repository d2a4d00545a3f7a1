"""The objects of a request are freed when it ends, without the garbage collector."""

import asyncio
import gc
import socket
import struct
from collections.abc import Iterator

import pytest
from fastapi import FastAPI
from httpx2 import AsyncClient
from sqlalchemy import Table

from app.core.database.session import LazySession
from app.core.web.disconnects import SECONDS_BEFORE_WATCHING, _WatchedClient
from app.core.web.request_limits import RequestLimitsProtocol
from app.services.health import HealthService
from tests.support import USERS, collect_garbage, until, user_values

RESET = struct.pack("ii", 1, 0)  # SO_LINGER: close() resets the connection


@pytest.fixture(autouse=True)
def no_garbage_collection() -> Iterator[None]:
    collect_garbage()
    gc.disable()
    yield
    gc.enable()


def alive(kind: type) -> list[object]:
    return [each for each in gc.get_objects() if type(each) is kind]


async def no_request_is_alive() -> bool:
    return not alive(LazySession) and not alive(_WatchedClient)


async def test_requests_are_freed(server: AsyncClient) -> None:
    user = (await server.post(USERS, json=user_values())).json()
    path = f"{USERS}/{user['id']}"
    statuses = [
        (await server.get(path)).status_code,
        (await server.get(USERS)).status_code,
        (await server.patch(path, json={"version": 1, "name": "Grace"})).status_code,
        (await server.patch(path, json={"version": 1, "name": "Grace"})).status_code,
        (await server.delete(path)).status_code,
        (await server.get(path)).status_code,
        (await server.post(USERS, json={})).status_code,
    ]

    assert statuses == [200, 200, 200, 409, 204, 404, 422]
    await until(no_request_is_alive)


@pytest.mark.sqlite  # it uses no database
async def test_request_that_was_watched_for_a_disconnect_is_freed(
    app: FastAPI, server: AsyncClient
) -> None:
    @app.get("/slow")
    async def slow() -> int:
        await asyncio.sleep(2 * SECONDS_BEFORE_WATCHING)
        return len(asyncio.all_tasks())

    # This test, the server, the request, and the task that watches.
    assert (await server.get("/slow")).json() >= 4
    await until(no_request_is_alive)


@pytest.mark.sqlite  # it uses no database
async def test_connection_that_its_client_resets_is_freed_before_keep_alive_timeout(
    server: AsyncClient,
) -> None:
    url = server.base_url
    reader, writer = await asyncio.open_connection(url.host, url.port)
    writer.write(b"GET /health/live HTTP/1.1\r\nHost: a\r\n\r\n")
    await reader.readuntil(b"\r\n\r\n")
    [protocol] = alive(RequestLimitsProtocol)
    assert isinstance(protocol, RequestLimitsProtocol)
    assert protocol.timeout_keep_alive_task
    assert not protocol.timeout_keep_alive_task.cancelled()

    writer.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET)
    writer.transport.abort()
    await until(lambda: protocol.parser is None)

    assert protocol.timeout_keep_alive_task.cancelled()


async def test_readiness_checks_keep_nothing(app: FastAPI) -> None:
    await HealthService().check_all()
    gc.collect()
    tables = len(alive(Table))

    for _ in range(3):
        await HealthService().check_all()

    gc.collect()
    assert len(alive(Table)) == tables
