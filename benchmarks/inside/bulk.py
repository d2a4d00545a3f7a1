"""Methods to insert events into the service's table. COPY is the fastest that PostgreSQL has.

    python benchmarks/inside/bulk.py EVENTS

For each line of input it prints the seconds that each method took, and leaves the table empty.
"""

import asyncio
import json
import sys
from datetime import UTC, datetime
from time import perf_counter
from typing import Any
from uuid import uuid4

from app.core.db import dispose_engines, get_engine, session_scope
from app.models.event import Event
from sqlalchemy import func, insert, select, text

Events = list[dict[str, Any]]


async def add_all(events: Events) -> None:
    async with session_scope("analytics") as session:
        session.add_all(Event(**event) for event in events)


async def insert_many(events: Events) -> None:
    async with session_scope("analytics") as session:
        await session.execute(insert(Event), events)


async def insert_returning(events: Events) -> None:
    async with session_scope("analytics") as session:
        (await session.scalars(insert(Event).returning(Event.id), events)).all()


async def copy(events: Events) -> None:
    columns = ["name", "user_id", "properties", "occurred_at"]
    async with get_engine("analytics").connect() as connection:
        raw = await connection.get_raw_connection()
        records = [
            (e["name"], e["user_id"], json.dumps(e["properties"]), e["occurred_at"]) for e in events
        ]
        await raw.driver_connection.copy_records_to_table(
            "events", records=records, columns=columns
        )


METHODS = {
    "session.add_all": add_all,
    "insert(Event), list": insert_many,
    "insert().returning": insert_returning,
    "COPY": copy,
}


async def empty() -> int:
    """Empty the table. Return how many rows it had."""
    async with session_scope("analytics") as session:
        found = await session.scalar(select(func.count()).select_from(Event))
        await session.execute(text("TRUNCATE events RESTART IDENTITY"))
    return found or 0


async def main(number: int) -> None:
    events = [
        {
            "name": "seen",
            "user_id": uuid4(),
            "properties": {"page": f"/{n}", "number": n},
            "occurred_at": datetime.now(UTC),
        }
        for n in range(number)
    ]
    for _ in sys.stdin:
        await empty()
        seconds: dict[str, float] = {}
        for name, method in METHODS.items():
            start = perf_counter()
            await method(events)
            seconds[name] = perf_counter() - start
            stored = await empty()
            assert stored == number, f"{name} stored {stored}"
        print(json.dumps(seconds), flush=True)
    await dispose_engines()


asyncio.run(main(int(sys.argv[1])))
