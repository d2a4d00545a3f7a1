"""What pools and servers say about the service's connections."""

import threading
from collections.abc import AsyncGenerator, Sequence
from contextlib import asynccontextmanager
from typing import Any

from sqlalchemy import Row, text
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncSession, create_async_engine
from sqlalchemy.pool import NullPool

from app.core.config import get_database
from app.core.database.engine import make_migration_engine
from app.core.database.registry import live_pools
from app.core.database.url import resolve_async_url
from tests.harness.connections import OWN
from tests.support import until


def checked_out() -> list[str]:
    """Return the pools that sessions have taken a connection from and not given it back.

    A list, as engines of one URL may be several: for read-only sessions, or of another event loop.
    """
    return [f"{name}: {pool.status()}" for name, _, pool in live_pools() if pool.checkedout()]


def sqlite_connections() -> int:
    """Count the open SQLite connections: aiosqlite has a thread for each."""
    return sum("_connection_worker_thread" in thread.name for thread in threading.enumerate())


@asynccontextmanager
async def observer() -> AsyncGenerator[AsyncConnection, None]:
    """Yield a connection to the primary database that is none of the sessions', and sees every commit."""
    engine = make_migration_engine(get_database())
    try:
        async with engine.execution_options(isolation_level="AUTOCOMMIT").connect() as connection:
            yield connection
    finally:
        await engine.dispose()


async def fetch(statement: str) -> Sequence[Row[Any]]:
    """Ask the primary database, on such a connection."""
    async with observer() as connection:
        result = await connection.execute(text(statement))
        return result.all() if result.returns_rows else []


async def execute_script(url: str, script: str) -> None:
    """Run several statements on a database, as psql and its like do, and commit."""
    engine = create_async_engine(resolve_async_url(url), poolclass=NullPool)
    async with engine.connect() as connection:
        driver = (await connection.get_raw_connection()).driver_connection
        assert driver
        await (driver.executescript if engine.name == "sqlite" else driver.execute)(script)
    await engine.dispose()


async def stored_users() -> int:
    """Count the users that are committed."""
    async with observer() as connection:
        return await count_users(connection)


async def count_users(connection: AsyncConnection) -> int:
    return await connection.scalar(text("SELECT count(*) FROM users")) or 0


async def connections() -> int:
    """Count the connections that the service holds to the primary database, as the server does."""
    if get_database().url().get_backend_name() == "sqlite":
        return sqlite_connections()
    [(count,)] = await fetch(
        "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() "
        f"AND usesysid IS NOT NULL AND pid <> pg_backend_pid() AND application_name <> '{OWN}'"
    )
    return int(count)


async def nobody_is_connected() -> bool:
    return await connections() == 0


async def pid(session: AsyncSession) -> int:
    """Return the number of the server's process behind the session."""
    return int(await session.scalar(text("SELECT pg_backend_pid()")) or 0)


async def driver(session: AsyncSession) -> Any:
    """Return the driver's connection, past which SQLAlchemy sees nothing."""
    return (await (await session.connection()).get_raw_connection()).driver_connection


async def kill(*pids: int) -> None:
    """Let the server close these connections, and wait until it has."""
    numbers = ", ".join(map(str, pids))
    await fetch(f"SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE pid IN ({numbers})")
    await until_closed(*pids)


async def until_closed(*pids: int) -> None:
    """Wait until the server has closed these connections."""
    numbers = ", ".join(map(str, pids))

    async def gone() -> bool:
        return not await fetch(f"SELECT 1 FROM pg_stat_activity WHERE pid IN ({numbers})")

    await until(gone)


async def until_active(number: int) -> None:
    async def active() -> bool:
        [(state,)] = await fetch(f"SELECT state FROM pg_stat_activity WHERE pid = {number}")
        return bool(state == "active")

    await until(active)


async def until_waiting(statement: str) -> None:
    """Wait until a statement that begins like this waits for a lock."""
    query = (
        "SELECT 1 FROM pg_stat_activity WHERE datname = current_database() "
        f"AND wait_event_type = 'Lock' AND query LIKE '{statement}%'"
    )

    async def waits() -> bool:
        return bool(await fetch(query))

    await until(waits)
