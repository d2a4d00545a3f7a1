"""Reads the state of the service's pools and of the database server."""

import threading
from collections.abc import AsyncGenerator, Sequence
from contextlib import asynccontextmanager
from typing import Any

from sqlalchemy import Row, text
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncSession

from app.core.config import get_database
from app.core.database.engine import make_migration_engine
from app.core.database.registry import live_pools
from app.models import User
from tests.harness.connections import APPLICATION_NAME
from tests.support import until


def checked_out() -> list[str]:
    """Return the pools with connections in use, each with its status.

    One URL may have several engines: for read-only sessions, and for each event loop.
    """
    return [f"{name}: {pool.status()}" for name, _, pool in live_pools() if pool.checkedout()]


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


async def stored_users() -> int:
    """Count the committed users."""
    [(count,)] = await fetch(f"SELECT count(*) FROM {User.__tablename__}")
    return int(count)


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
