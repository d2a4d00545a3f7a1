"""Crashes and restarts under load lose no acknowledged write."""

import asyncio
import os
import re
import signal
from collections.abc import Iterator
from contextlib import suppress
from http import HTTPStatus
from pathlib import Path

import httpx2
import pytest
from httpx2 import AsyncClient
from sqlalchemy import make_url, text

from app.core.db import session_scope
from tests.conformance.harness.fragile import Fragile, fragile
from tests.inspection import checked_out, fetch
from tests.processes import serving
from tests.support import USERS, configure, migrate, set_databases, until, user_values

ROOT = Path(__file__).parents[2]

pytestmark = [pytest.mark.load, pytest.mark.postgresql]


class Clients:
    """Clients that write continuously, and the responses that they got."""

    def __init__(self, client: AsyncClient) -> None:
        self.acknowledged: set[str] = set()
        self.failed: list[int] = []
        self._client = client

    async def write_forever(self) -> None:
        while True:
            await self.write()

    async def write_until_the_server_stops(self) -> None:
        with suppress(httpx2.TransportError):
            await self.write_forever()

    async def write_despite_errors(self) -> None:
        while True:
            with suppress(httpx2.TransportError):
                await self.write()

    async def write(self) -> None:
        user = user_values()
        response = await self._client.post(USERS, json=user)
        if response.status_code == HTTPStatus.CREATED:
            self.acknowledged.add(user["email"])
        else:
            self.failed.append(response.status_code)

    async def make_progress(self) -> None:
        """Wait until more than a hundred further writes are acknowledged."""
        expected = len(self.acknowledged) + 100
        await until(lambda: len(self.acknowledged) > expected)

    async def lost(self) -> set[str]:
        """Return the acknowledged users that are not stored."""
        return self.acknowledged - {email for (email,) in await fetch("SELECT email FROM users")}


@pytest.fixture
def crashable(environment: pytest.MonkeyPatch, databases: None) -> Iterator[Fragile]:
    """A server for the primary database that may crash and keeps its acknowledged commits."""
    with fragile() as server:
        migrate("primary", server.url)
        url = make_url(server.url).update_query_dict({"options": "-c synchronous_commit=on"})
        set_databases(environment, {"primary": url.render_as_string(hide_password=False)})
        yield server


async def test_database_crash_under_load_loses_no_acknowledged_write(
    crashable: Fragile, server: AsyncClient
) -> None:
    clients = Clients(server)
    writing = [asyncio.create_task(clients.write_forever()) for _ in range(20)]

    for _ in range(3):
        await clients.make_progress()
        await asyncio.to_thread(crashable.crash)
    await clients.make_progress()
    assert not any(task.done() for task in writing)
    for task in writing:
        task.cancel()
    await asyncio.wait(writing)

    assert not await clients.lost()
    assert {*clients.failed} <= {HTTPStatus.SERVICE_UNAVAILABLE}
    await until(lambda: not checked_out())


@pytest.mark.parametrize("workers", ["1", "2"])
async def test_service_stopped_under_load_completes_its_requests(
    databases: None, environment: pytest.MonkeyPatch, tmp_path: Path, workers: str
) -> None:
    configure(environment, pool_size=20)
    variables = {**os.environ, "PYTHONPATH": str(ROOT)}

    with serving("--workers", workers, variables=variables, folder=tmp_path) as service:
        async with AsyncClient(base_url=service.url, timeout=60) as client:
            clients = Clients(client)
            loading = [clients.write_until_the_server_stops() for _ in range(4)]
            load = asyncio.gather(*loading)
            await until(lambda: len(clients.acknowledged) > 20)
            async with session_scope() as holder:
                await holder.execute(text("LOCK TABLE users IN SHARE MODE"))
                pending = [asyncio.create_task(clients.write()) for _ in range(16)]
                await until(twenty_writes_wait_for_the_lock)
                service.process.terminate()
                await until(lambda: service.log.read_text().count("Shutting down") == int(workers))
            await asyncio.gather(load, *pending)

        assert await asyncio.to_thread(service.exit_code) == 0
    assert not clients.failed
    assert not await clients.lost()


async def test_killed_worker_loses_no_acknowledged_write(databases: None, tmp_path: Path) -> None:
    variables = {**os.environ, "PYTHONPATH": str(ROOT)}

    with serving("--workers", "2", variables=variables, folder=tmp_path) as service:
        async with AsyncClient(base_url=service.url, timeout=60) as client:
            clients = Clients(client)
            load = [asyncio.create_task(clients.write_despite_errors()) for _ in range(8)]
            await clients.make_progress()
            await until(lambda: len(worker_pids(service.log)) == 2)  # both have started
            worker, other = worker_pids(service.log)
            os.kill(worker, signal.SIGKILL)
            await clients.make_progress()
            await until(lambda: len(worker_pids(service.log)) == 3)  # a new worker has started
            await clients.make_progress()
            for task in load:
                task.cancel()
            await asyncio.wait(load)

        assert other in worker_pids(service.log)
        service.process.terminate()
        assert await asyncio.to_thread(service.exit_code) == 0
    assert not clients.failed
    assert not await clients.lost()


def worker_pids(log: Path) -> list[int]:
    return [int(pid) for pid in re.findall(r"Started server process \[(\d+)\]", log.read_text())]


async def twenty_writes_wait_for_the_lock() -> bool:
    [(waiting,)] = await fetch(
        "SELECT count(*) FROM pg_locks WHERE NOT granted AND relation = 'users'::regclass"
    )
    return bool(waiting == 20)
