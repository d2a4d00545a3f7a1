"""Reads the state of the service's engines and pools, and of the database server.

The only module of the tests that imports private names of `app.core.database`.
"""

import threading
from collections.abc import AsyncGenerator, Sequence
from contextlib import asynccontextmanager
from typing import Any

from sqlalchemy import Row, text
from sqlalchemy.ext.asyncio import (
    AsyncConnection,
    AsyncEngine,
    AsyncSession,
    async_sessionmaker,
    create_async_engine,
)
from sqlalchemy.pool import NullPool

from app.core.config import DatabaseSettings, get_database
from app.core.database.engine import make_migration_engine
from app.core.database.registry import _closers, _databases, find_database, find_probe, live_pools
from app.core.database.url import resolve_async_url
from app.core.db import get_engine
from tests.harness.connections import APPLICATION_NAME
from tests.support import until

# Settings in the code, which tests shorten with `monkeypatch.setattr`.
IDLE_BEFORE_PING = "app.core.database.postgresql._liveness.IDLE_BEFORE_PING"
PING_TIMEOUT = "app.core.database.postgresql._liveness.PING_TIMEOUT"
REPLICA_RETRY_AFTER = "app.core.database.replica.RETRY_AFTER"


def checked_out() -> list[str]:
    """Return the pools with connections in use, each with its status.

    One URL may have several engines: for read-only sessions, and for each event loop.
    """
    return [f"{name}: {pool.status()}" for name, _, pool in live_pools() if pool.checkedout()]


def engine_loops() -> set[object]:
    """Return the event loops that have engines; None stands for engines made outside of a loop."""
    return {*_databases, *_closers}


def registry_contents() -> list[object]:
    """Return everything that the registry of engines stores."""
    return [*_databases.values()]


def session_factory(database: str | None = None) -> async_sessionmaker[AsyncSession]:
    """Return the session factory of a database's engine."""
    return find_database(get_database(database), dev=False, read_only=False).sessions


def probe_engine(settings: DatabaseSettings) -> AsyncEngine:
    """Return the engine of the readiness probe."""
    return find_probe(settings)


def count_pools() -> int:
    """Count the pools of all event loops."""
    return len(live_pools())


def requests_in_queue() -> int:
    """Count the tasks that wait for a connection of the primary database's pool."""
    return len(get_engine().pool._pool._waiting)  # type: ignore[attr-defined]


def sqlite_connections() -> int:
    """Count the open SQLite connections. aiosqlite runs a thread for each."""
    return sum("_connection_worker_thread" in thread.name for thread in threading.enumerate())


@asynccontextmanager
async def observer() -> AsyncGenerator[AsyncConnection, None]:
    """Yield a connection to the primary database outside the service's engines. It sees every commit."""
    engine = make_migration_engine(get_database())
    try:
        async with engine.execution_options(isolation_level="AUTOCOMMIT").connect() as connection:
            yield connection
    finally:
        await engine.dispose()


async def fetch(statement: str) -> Sequence[Row[Any]]:
    """Run a statement on the primary database with `observer` and return the rows."""
    async with observer() as connection:
        result = await connection.execute(text(statement))
        return result.all() if result.returns_rows else []


async def execute_script(url: str, script: str) -> None:
    """Run several statements in one string on a database, as psql does, and commit."""
    engine = create_async_engine(resolve_async_url(url), poolclass=NullPool)
    async with engine.connect() as connection:
        driver = (await connection.get_raw_connection()).driver_connection
        assert driver
        await (driver.executescript if engine.name == "sqlite" else driver.execute)(script)
    await engine.dispose()


async def stored_users() -> int:
    """Count the committed users."""
    async with observer() as connection:
        return await count_users(connection)


async def count_users(connection: AsyncConnection) -> int:
    """Count the users that this connection sees."""
    return await connection.scalar(text("SELECT count(*) FROM users")) or 0


async def connections() -> int:
    """Ask the server how many connections the service has open to the primary database."""
    if get_database().url().get_backend_name() == "sqlite":
        return sqlite_connections()
    [(count,)] = await fetch(
        "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() "
        f"AND usesysid IS NOT NULL AND pid <> pg_backend_pid() AND application_name <> '{APPLICATION_NAME}'"
    )
    return int(count)


async def nobody_is_connected() -> bool:
    """Return whether the service has closed all its connections to the primary database."""
    return await connections() == 0


async def pid(session: AsyncSession) -> int:
    """Return the process ID of the session's PostgreSQL backend."""
    return int(await session.scalar(text("SELECT pg_backend_pid()")) or 0)


async def driver(session: AsyncSession) -> Any:
    """Return the driver's connection. SQLAlchemy does not see statements that run on it directly."""
    return (await (await session.connection()).get_raw_connection()).driver_connection


async def kill(*pids: int) -> None:
    """Make PostgreSQL close these connections, and wait until it has."""
    numbers = ", ".join(map(str, pids))
    await fetch(f"SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE pid IN ({numbers})")
    await until_closed(*pids)


async def until_closed(*pids: int) -> None:
    """Wait until PostgreSQL has closed these connections."""
    numbers = ", ".join(map(str, pids))

    async def are_closed() -> bool:
        return not await fetch(f"SELECT 1 FROM pg_stat_activity WHERE pid IN ({numbers})")

    await until(are_closed)


async def until_active(number: int) -> None:
    """Wait until the backend with this process ID is running a statement."""

    async def is_active() -> bool:
        [(state,)] = await fetch(f"SELECT state FROM pg_stat_activity WHERE pid = {number}")
        return bool(state == "active")

    await until(is_active)


async def until_waiting(statement: str) -> None:
    """Wait until a statement that starts with this text waits for a lock."""
    query = (
        "SELECT 1 FROM pg_stat_activity WHERE datname = current_database() "
        f"AND wait_event_type = 'Lock' AND query LIKE '{statement}%'"
    )

    async def is_waiting() -> bool:
        return bool(await fetch(query))

    await until(is_waiting)
