"""Reads pages of users with the service's own repository and read-only session.

    python benchmarks/inside/pages.py ROWS …

For each number of rows it waits for a line of input, and prints the median seconds of the first page, of
the last page, and of the last page by OFFSET.
"""

import asyncio
import json
import sys
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime, timedelta
from statistics import median
from time import perf_counter
from uuid import UUID

from app.core.db import dispose_engines, get_engine, session_scope
from app.models.user import User
from app.repositories.user import UserRepository
from sqlalchemy import select, text

LIMIT = 51  # the service reads one row more than the page, to know whether there is a next page
TIMES = {"first": 300, "last": 300, "offset": 3}

BEGINNING = datetime(2026, 1, 1, tzinfo=UTC)
FILL = """
INSERT INTO users (id, name, email, version, created_at)
SELECT ('00000000-0000-4000-8000-' || lpad(to_hex(n), 12, '0'))::uuid, 'User ' || n,
    'user-' || n || '@example.com', 1, timestamptz '2026-01-01 00:00:00Z' + n * interval '1 second'
FROM generate_series(1, :rows) AS n
"""


async def fill(rows: int) -> None:
    async with get_engine().connect() as connection:
        await connection.execute(text("SET statement_timeout = 0"))
        await connection.execute(text("TRUNCATE users"))
        await connection.execute(text(FILL), {"rows": rows})
        await connection.commit()
        autocommit = await connection.execution_options(isolation_level="AUTOCOMMIT")
        await autocommit.execute(text("VACUUM ANALYZE users"))
        await connection.invalidate()  # its statement_timeout is disabled


async def measured(rows: int) -> dict[str, float]:
    last = (
        BEGINNING + timedelta(seconds=rows - 50),
        UUID(f"00000000-0000-4000-8000-{rows - 50:012x}"),
    )

    async def page(after: tuple[datetime, UUID] | None) -> int:
        async with session_scope(read_only=True) as session:
            return len(await UserRepository(session).page(LIMIT, after))

    async def offset() -> int:
        statement = select(User).order_by(User.created_at, User.id).limit(LIMIT).offset(rows - 50)
        async with session_scope(read_only=True) as session:
            return len((await session.scalars(statement)).all())

    ways: dict[str, tuple[Callable[[], Awaitable[int]], int]] = {
        "first": (lambda: page(None), LIMIT),
        "last": (lambda: page(last), 50),
        "offset": (offset, 50),
    }
    seconds: dict[str, list[float]] = {name: [] for name in ways}
    for number in range(max(TIMES.values()) + 1):
        for name, (way, expected) in ways.items():
            if number > TIMES[name]:
                continue
            start = perf_counter()
            found = await way()
            if number:  # the first round is a warm-up
                seconds[name].append(perf_counter() - start)
            assert found == expected, f"{name}: {found} rows"
    return {name: median(values) for name, values in seconds.items()}


async def main() -> None:
    for rows in map(int, sys.argv[1:]):
        sys.stdin.readline()
        await fill(rows)
        print(json.dumps({"rows": rows, "seconds": await measured(rows)}), flush=True)
    await dispose_engines()


asyncio.run(main())
