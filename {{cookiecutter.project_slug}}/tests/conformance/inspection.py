"""Reads the state of the service's engines and pools that only the reference tests."""

from collections.abc import Callable

from sqlalchemy.ext.asyncio import AsyncEngine, create_async_engine
from sqlalchemy.pool import NullPool

from app.core.config import DatabaseSettings, get_database
from app.core.database.registry import _closers, _databases, find_database, find_probe
from app.core.database.session import LazySession
from app.core.database.url import resolve_async_url
from app.core.db import get_engine
from tests.inspection import fetch
from tests.support import until

CLOSE_TIMEOUT = "app.core.database.postgresql._connection.CLOSE_TIMEOUT"
IDLE_BEFORE_PING = "app.core.database.postgresql._liveness.IDLE_BEFORE_PING"
PING_TIMEOUT = "app.core.database.postgresql._liveness.PING_TIMEOUT"
REPLICA_RETRY_AFTER = "app.core.database.replica.RETRY_AFTER"


def engine_loops() -> set[object]:
    """Return the event loops that have engines; None stands for engines made outside of a loop."""
    return {*_databases, *_closers}


def registry_contents() -> list[object]:
    """Return everything that the registry of engines stores."""
    return [*_databases.values()]


def session_factory(database: str | None = None) -> Callable[[], LazySession]:
    """Return the session factory of a database's engine."""
    return find_database(get_database(database), dev=False, read_only=False).sessions


def probe_engine(settings: DatabaseSettings) -> AsyncEngine:
    """Return the engine of the readiness probe."""
    return find_probe(settings)


def requests_in_queue(*, read_only: bool = False) -> int:
    """Count the tasks that wait for a connection of the primary database's pool."""
    return len(get_engine(read_only=read_only).pool._pool._waiting)  # type: ignore[attr-defined]


async def execute_script(url: str, script: str) -> None:
    """Run several statements in one string on a database, as psql does, and commit."""
    engine = create_async_engine(resolve_async_url(url), poolclass=NullPool)
    async with engine.connect() as connection:
        driver = (await connection.get_raw_connection()).driver_connection
        assert driver
        await (driver.executescript if engine.name == "sqlite" else driver.execute)(script)
    await engine.dispose()


async def until_waiting(statement: str) -> None:
    """Wait until a statement that starts with this text waits for a lock."""
    query = (
        "SELECT 1 FROM pg_stat_activity WHERE datname = current_database() "
        f"AND wait_event_type = 'Lock' AND query LIKE '{statement}%'"
    )

    async def is_waiting() -> bool:
        return bool(await fetch(query))

    await until(is_waiting)
