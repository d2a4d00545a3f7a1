"""The server crashes, the service is stopped, and all that under load: what was acknowledged is stored."""

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
from tests.support import configure, migrate, new_email, set_databases, until

ROOT = Path(__file__).parents[2]

pytestmark = [pytest.mark.load, pytest.mark.postgresql]


class Clients:
    """Clients that write without a pause, and what they were answered."""

    def __init__(self, client: AsyncClient) -> None:
        self.acknowledged: set[str] = set()
        self.refused: list[int] = []
        self._client = client

    async def write_for_ever(self) -> None:
        while True:
            await self.write()

    async def write_until_nobody_listens(self) -> None:
        with suppress(httpx2.TransportError):
            await self.write_for_ever()

    async def write_come_what_may(self) -> None:
        while True:
            with suppress(httpx2.TransportError):
                await self.write()

    async def write(self) -> None:
        email = new_email()
        answer = await self._client.post("/users", json={"name": "Ada", "email": email})
        if answer.status_code == HTTPStatus.CREATED:
            self.acknowledged.add(email)
        else:
            self.refused.append(answer.status_code)

    async def go_on(self) -> None:
        """Wait until they have been told of a hundred more writes."""
        enough = len(self.acknowledged) + 100
        await until(lambda: len(self.acknowledged) > enough)

    async def lost(self) -> set[str]:
        """Return what they were told was stored, and is not."""
        return self.acknowledged - {email for (email,) in await fetch("SELECT email FROM users")}


@pytest.fixture
def crashing(environment: pytest.MonkeyPatch, databases: None) -> Iterator[Fragile]:
    """A server for the primary database that can crash, and then knows what it has acknowledged."""
    with fragile() as server:
        migrate("primary", server.url)
        url = make_url(server.url).update_query_dict({"options": "-c synchronous_commit=on"})
        set_databases(environment, {"primary": url.render_as_string(hide_password=False)})
        yield server


async def test_server_that_crashes_under_load_loses_no_acknowledged_write(
    crashing: Fragile, server: AsyncClient
) -> None:
    clients = Clients(server)
    writing = [asyncio.create_task(clients.write_for_ever()) for _ in range(20)]

    for _ in range(3):
        await clients.go_on()
        await asyncio.to_thread(crashing.crash)
    await clients.go_on()
    assert not any(task.done() for task in writing)
    for task in writing:
        task.cancel()
    await asyncio.wait(writing)

    assert not await clients.lost()
    assert {*clients.refused} <= {HTTPStatus.SERVICE_UNAVAILABLE}
    await until(lambda: not checked_out())


@pytest.mark.parametrize("workers", ["1", "2"])
async def test_service_that_is_stopped_under_load_answers_what_it_has_begun(
    databases: None, environment: pytest.MonkeyPatch, tmp_path: Path, workers: str
) -> None:
    configure(environment, pool_size=20)
    variables = {**os.environ, "PYTHONPATH": str(ROOT)}

    with serving("--workers", workers, variables=variables, folder=tmp_path) as served:
        async with AsyncClient(base_url=served.url, timeout=60) as client:
            clients = Clients(client)
            loading = [clients.write_until_nobody_listens() for _ in range(4)]
            load = asyncio.gather(*loading)
            await until(lambda: len(clients.acknowledged) > 20)
            async with session_scope() as holder:
                await holder.execute(text("LOCK TABLE users IN SHARE MODE"))
                begun = [asyncio.create_task(clients.write()) for _ in range(16)]
                await until(twenty_wait_for_the_lock)
                served.process.terminate()
                await until(lambda: served.log.read_text().count("Shutting down") == int(workers))
            await asyncio.gather(load, *begun)

        assert await asyncio.to_thread(served.exit_code) == 0
    assert not clients.refused
    assert not await clients.lost()


async def test_worker_that_is_killed_under_load_loses_no_acknowledged_write(
    databases: None, tmp_path: Path
) -> None:
    variables = {**os.environ, "PYTHONPATH": str(ROOT)}

    with serving("--workers", "2", variables=variables, folder=tmp_path) as served:
        async with AsyncClient(base_url=served.url, timeout=60) as client:
            clients = Clients(client)
            load = [asyncio.create_task(clients.write_come_what_may()) for _ in range(8)]
            await clients.go_on()
            await until(lambda: len(pids_of_workers(served.log)) == 2)  # one may be slower
            worker, other = pids_of_workers(served.log)
            os.kill(worker, signal.SIGKILL)
            await clients.go_on()
            await until(lambda: len(pids_of_workers(served.log)) == 3)  # there is a new one
            await clients.go_on()
            for task in load:
                task.cancel()
            await asyncio.wait(load)

        assert other in pids_of_workers(served.log)
        served.process.terminate()
        assert await asyncio.to_thread(served.exit_code) == 0
    assert not clients.refused
    assert not await clients.lost()


def pids_of_workers(log: Path) -> list[int]:
    return [int(pid) for pid in re.findall(r"Started server process \[(\d+)\]", log.read_text())]


async def twenty_wait_for_the_lock() -> bool:
    [(waiting,)] = await fetch(
        "SELECT count(*) FROM pg_locks WHERE NOT granted AND relation = 'users'::regclass"
    )
    return bool(waiting == 20)
