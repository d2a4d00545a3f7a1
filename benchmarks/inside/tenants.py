"""Creates an engine for each of many databases, and measures the CPU time and the memory.

    python benchmarks/inside/tenants.py ENGINES CONNECTIONS

The URLs differ in `application_name` only: they lead to one database, and each gets its own engine. For each
line of input it creates all engines, opens a connection of the first ones, closes everything, and prints what
each step has cost: [milliseconds of CPU time, KiB of the resident set].
"""

import asyncio
import gc
import json
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from time import process_time

from app.core.config import get_database
from app.core.database.settings import DatabaseSettings
from app.core.db import dispose_engines, session_scope
from sqlalchemy import text

Cost = tuple[float, int]


@contextmanager
def step(name: str, costs: dict[str, Cost]) -> Iterator[None]:
    memory, start = resident(), process_time()
    yield
    milliseconds = (process_time() - start) * 1000
    costs[name] = (milliseconds, resident() - memory)


def resident() -> int:
    gc.collect()
    status = Path("/proc/self/status").read_text()
    return next(int(line.split()[1]) for line in status.splitlines() if line.startswith("VmRSS:"))


def tenant(number: int) -> DatabaseSettings:
    url = get_database().url().update_query_dict({"application_name": f"tenant {number}"})
    return get_database().for_url(url, name=f"tenant {number}", pool_size=2)


async def select(settings: DatabaseSettings) -> None:
    async with session_scope(settings) as session:
        await session.execute(text("SELECT 1"))


async def measured(engines: int, connections: int) -> dict[str, Cost]:
    costs: dict[str, Cost] = {}
    tenants: list[DatabaseSettings] = []
    with step("engines", costs):
        for number in range(engines):
            tenants.append(tenant(number))
            async with session_scope(tenants[-1]):
                pass  # a session without a statement has an engine and no connection
    with step("connections", costs):
        for settings in tenants[:connections]:
            await select(settings)
    with step("disposed", costs):
        await dispose_engines()
        tenants.clear()
    return costs


async def main(engines: int, connections: int) -> None:
    await measured(1, 1)  # loads code, which is not counted
    while sys.stdin.readline():
        print(json.dumps(await measured(engines, connections)), flush=True)


asyncio.run(main(*map(int, sys.argv[1:])))
