"""SHUTDOWN_DELAY with one process and with several workers."""

import asyncio
import os
import re
import signal
import time
from pathlib import Path

from tests.processes import serving
from tests.support import until

ROOT = Path(__file__).parents[4]


def variables(**settings: str) -> dict[str, str]:
    return {**os.environ, "PYTHONPATH": str(ROOT), **settings}


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
