"""Graceful shutdown: readiness fails first, running requests finish, and the rest are cancelled."""

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
from tests.support import USERS, problem, until, user_values

ROOT = Path(__file__).parents[4]

pytestmark = pytest.mark.postgresql  # a shutdown does not depend on the kind of database


def variables(**settings: str) -> dict[str, str]:
    return {**os.environ, "PYTHONPATH": str(ROOT), **settings}


async def test_service_is_unready_after_sigterm_and_still_accepts_requests(
    databases: None, tmp_path: Path
) -> None:
    with serving(variables=variables(SHUTDOWN_DELAY="60"), folder=tmp_path) as served:
        async with AsyncClient(base_url=served.url) as client:
            assert (await client.get("/health/ready")).status_code == 200

            served.process.terminate()

            async def is_unready() -> bool:
                return (await client.get("/health/ready")).status_code == 503

            await until(is_unready)
            ready = problem(await client.get("/health/ready"))
            assert ready["detail"] == "The service is about to stop."
            assert (await client.get("/health/live")).status_code == 200
            user = user_values()
            assert (await client.post(USERS, json=user)).status_code == 201

            served.process.terminate()  # a second SIGTERM ends the delay
        assert await asyncio.to_thread(served.exit_code) == 0


async def test_workers_wait_for_shutdown_delay_if_the_whole_process_group_gets_sigterm(
    databases: None, tmp_path: Path
) -> None:
    """systemd signals the whole group: workers get a second SIGTERM from their parent process."""
    delay = 1.5
    settings = variables(SHUTDOWN_DELAY=str(delay))
    with serving("--workers", "2", variables=settings, folder=tmp_path) as served:
        await until(lambda: served.log.read_text().count("startup complete") == 2)
        workers = re.findall(r"Started server process \[(\d+)\]", served.log.read_text())
        began = time.monotonic()
        for pid in (*map(int, workers), served.process.pid):
            os.kill(pid, signal.SIGTERM)

        assert await asyncio.to_thread(served.exit_code) == 0
        assert time.monotonic() - began >= delay


async def test_request_is_cancelled_and_rolled_back_after_shutdown_timeout(
    databases: None, tmp_path: Path
) -> None:
    with serving(variables=variables(SHUTDOWN_TIMEOUT="1"), folder=tmp_path) as served:
        async with AsyncClient(base_url=served.url) as client, session_scope() as holder:
            await holder.execute(text("LOCK TABLE users IN SHARE MODE"))
            user = user_values()
            writing = asyncio.create_task(client.post(USERS, json=user))
            await until(a_lock_is_awaited)

            served.process.terminate()

            assert await asyncio.to_thread(served.exit_code) == 0
            assert (await writing).status_code == 500
    assert await stored_users() == 0


async def a_lock_is_awaited() -> bool:
    return bool(await fetch("SELECT 1 FROM pg_locks WHERE NOT granted"))
