"""Who sends work hears of the stop before it, and the stop takes no longer than the settings say."""

import asyncio
import os
import re
import signal
import time
from pathlib import Path

import pytest
from httpx2 import AsyncClient
from sqlalchemy import text

from app.core.db import session_scope
from tests.inspection import fetch, stored_users
from tests.processes import serving
from tests.support import new_email, problem, until

ROOT = Path(__file__).parents[4]


def variables(**settings: str) -> dict[str, str]:
    return {**os.environ, "PYTHONPATH": str(ROOT), **settings}


async def test_service_that_is_to_stop_says_so_and_still_answers(
    databases: None, tmp_path: Path
) -> None:
    with serving(variables=variables(SHUTDOWN_DELAY="60"), folder=tmp_path) as served:
        async with AsyncClient(base_url=served.url) as client:
            assert (await client.get("/health/ready")).status_code == 200

            served.process.terminate()

            async def says_so() -> bool:
                return (await client.get("/health/ready")).status_code == 503

            await until(says_so)
            ready = problem(await client.get("/health/ready"))
            assert ready["detail"] == "The service is about to stop."
            assert (await client.get("/health/live")).status_code == 200
            user = {"name": "Ada", "email": new_email()}
            assert (await client.post("/users", json=user)).status_code == 201

            served.process.terminate()  # who says it twice does not want to wait
        assert await asyncio.to_thread(served.exit_code) == 0


async def test_stop_takes_the_delay_of_the_settings(databases: None, tmp_path: Path) -> None:
    with serving(variables=variables(SHUTDOWN_DELAY="0.5"), folder=tmp_path) as served:
        served.process.terminate()
        began = time.monotonic()

        assert served.exit_code() == 0
        assert time.monotonic() - began >= 0.5


async def test_workers_whose_whole_group_is_told_to_stop_take_the_delay(
    databases: None, tmp_path: Path
) -> None:
    """As systemd does it; from their parent they hear it a second time."""
    delay = 1.5
    told = variables(SHUTDOWN_DELAY=str(delay))
    with serving("--workers", "2", variables=told, folder=tmp_path) as served:
        await until(lambda: served.log.read_text().count("startup complete") == 2)
        workers = re.findall(r"Started server process \[(\d+)\]", served.log.read_text())
        for pid in (*map(int, workers), served.process.pid):
            os.kill(pid, signal.SIGTERM)
        began = time.monotonic()

        assert await asyncio.to_thread(served.exit_code) == 0
        assert time.monotonic() - began >= delay


@pytest.mark.postgresql
async def test_request_that_takes_too_long_is_cancelled_and_rolled_back(
    databases: None, tmp_path: Path
) -> None:
    with serving(variables=variables(SHUTDOWN_TIMEOUT="1"), folder=tmp_path) as served:
        async with AsyncClient(base_url=served.url) as client, session_scope() as holder:
            await holder.execute(text("LOCK TABLE users IN SHARE MODE"))
            user = {"name": "Ada", "email": new_email()}
            writing = asyncio.create_task(client.post("/users", json=user))
            await until(somebody_waits)

            served.process.terminate()

            assert await asyncio.to_thread(served.exit_code) == 0
            assert (await writing).status_code == 500
    assert await stored_users() == 0


async def somebody_waits() -> bool:
    return bool(await fetch("SELECT 1 FROM pg_locks WHERE NOT granted"))
