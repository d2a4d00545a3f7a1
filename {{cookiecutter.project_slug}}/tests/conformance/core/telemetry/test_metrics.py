"""Metrics of the connection pools."""

import asyncio
import sys
from collections.abc import Iterator
from threading import Event, Thread
from typing import Any

import pytest
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import InMemoryMetricReader, NumberDataPoint
from sqlalchemy import text

from app.core.database.registry import live_pools
from app.core.db import dispose_engines, get_engine, session_scope
from app.core.telemetry.metrics import observe_pools
from tests.support import configure, until


@pytest.fixture
def reader() -> Iterator[InMemoryMetricReader]:
    reader = InMemoryMetricReader()
    provider = MeterProvider([reader], shutdown_on_exit=False)
    observe_pools(provider)
    yield reader
    provider.shutdown()


def read(reader: InMemoryMetricReader) -> dict[tuple[str, ...], Any]:
    """Return the values by metric, pool and, if there is one, state."""
    data = reader.get_metrics_data()
    metrics = [
        metric
        for resource in (data.resource_metrics if data else [])
        for scope in resource.scope_metrics
        for metric in scope.metrics
    ]
    values = {}
    for metric in metrics:
        for point in metric.data.data_points:
            assert isinstance(point, NumberDataPoint)
            attributes = dict(point.attributes or {})
            assert attributes.pop("db.namespace") == "primary"
            values[metric.name, *map(str, attributes.values())] = point.value
    return values


def pool_values(name: str, used: int, idle: int, waiting: int, overflow: int) -> dict[Any, int]:
    return {
        ("db.client.connection.count", name, "used"): used,
        ("db.client.connection.count", name, "idle"): idle,
        ("db.client.connection.max", name): 3,
        ("db.client.connection.idle.max", name): 2,
        ("db.client.connection.pending_requests", name): waiting,
        ("sqlalchemy.pool.overflow", name): overflow,
    }


@pytest.mark.sqlite  # the pool is the same for each kind of database
async def test_pool_is_reported_until_it_is_disposed_of(
    databases: None, environment: pytest.MonkeyPatch, reader: InMemoryMetricReader
) -> None:
    configure(environment, pool_size=2, max_overflow=1)

    async def use(done: asyncio.Event) -> None:
        async with session_scope() as session:
            await session.execute(text("SELECT 1"))
            await done.wait()

    assert read(reader) == {}
    done = asyncio.Event()
    users = [asyncio.create_task(use(done)) for _ in range(5)]
    async with session_scope(read_only=True) as session:
        await session.execute(text("SELECT 1"))
    [pool] = [pool for _, read_only, pool in live_pools() if not read_only]
    await until(lambda: pool.waiting == 2)

    reads = pool_values("primary read-only", used=0, idle=1, waiting=0, overflow=0)
    values = await asyncio.to_thread(read, reader)  # as an exporter does
    assert pool_values("primary", used=3, idle=0, waiting=2, overflow=1) | reads == values

    done.set()
    await asyncio.gather(*users)
    assert pool_values("primary", used=0, idle=2, waiting=0, overflow=0) | reads == read(reader)

    await dispose_engines()
    assert read(reader) == {}


@pytest.mark.sqlite  # the pool is the same for each kind of database
async def test_pools_of_one_database_are_added_up(
    databases: None, environment: pytest.MonkeyPatch, reader: InMemoryMetricReader
) -> None:
    configure(environment, pool_size=2, max_overflow=1)
    get_engine()
    alone = read(reader)
    await asyncio.to_thread(get_engine)  # another engine: the thread has no event loop

    key = ("db.client.connection.max", "primary")
    assert (3, 6) == (alone[key], read(reader)[key])


@pytest.mark.sqlite  # the pool is the same for each kind of database
async def test_pools_can_be_added_while_a_thread_reads_them(
    environment: pytest.MonkeyPatch, databases: None
) -> None:
    """Without the lock: RuntimeError, dictionary changed size during iteration."""
    ended = Event()
    errors: list[Exception] = []

    def read_on() -> None:
        while not ended.is_set() and not errors:
            try:
                live_pools()
            except Exception as error:
                errors.append(error)

    reading = Thread(target=read_on)
    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    reading.start()
    try:
        for _ in range(100):
            configure(environment, pool_size=1)  # a new settings object
            get_engine()
            get_engine(read_only=True)
    finally:
        ended.set()
        reading.join()
        sys.setswitchinterval(interval)

    assert errors == []
