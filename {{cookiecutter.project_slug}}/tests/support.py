"""What several tests need and no fixture gives."""

import asyncio
import gc
import os
import sys
import threading
from collections.abc import AsyncGenerator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from inspect import isawaitable
from typing import Any
from uuid import uuid4

import pytest
import uvicorn
from fastapi import FastAPI
from httpx2 import AsyncClient
from sqlalchemy import Row, text
from sqlalchemy.exc import IntegrityError
from sqlalchemy.ext.asyncio import AsyncSession

from app import migrations
from app.core.config import Settings, get_database, get_settings, variable
from app.core.engines import make_migration_engine
from app.core.registry import _databases
from app.models import User
from tests.harness.connections import OWN


def forget_environment(patch: pytest.MonkeyPatch) -> None:
    """Let the service know nothing of the developer's own databases, nor of their .env."""
    for name in os.environ:
        if name.upper().startswith(("DATABASE", "DEV_DATABASE")):
            patch.delenv(name)
    patch.setenv("ENVIRONMENT", "test")
    patch.setitem(Settings.model_config, "env_file", None)
    get_settings.cache_clear()


def set_databases(patch: pytest.MonkeyPatch, urls: dict[str, str]) -> None:
    """Let the databases of these names be at these URLs."""
    for name, url in urls.items():
        patch.setenv(variable(name), url)
    get_settings.cache_clear()


def migrate(database: str, url: str) -> None:
    """Bring the database at this URL to the newest revision, as the one of this name."""
    with pytest.MonkeyPatch.context() as patch:
        forget_environment(patch)
        set_databases(patch, {database: url})
        migrations.upgrade(database)
    get_settings.cache_clear()


def collect_garbage() -> None:
    """Let what a test has left open be reported now, and not in a later test."""
    for name in ("last_exc", "last_type", "last_value", "last_traceback"):  # of a test that failed
        vars(sys).pop(name, None)
    gc.collect()


def checked_out() -> list[str]:
    """Return the pools that sessions have taken a connection from and not given it back.

    A list, as engines of one URL may be several: for read-only sessions, or of another event loop.
    """
    engines = [database.engine for of_loop in _databases.values() for database in of_loop.values()]
    return [
        f"{engine.url}: {engine.pool.status()}"
        for engine in engines
        if engine.pool.checkedout()  # type: ignore[attr-defined]
    ]


def sqlite_connections() -> int:
    """Count the open SQLite connections: aiosqlite has a thread for each."""
    return sum("_connection_worker_thread" in thread.name for thread in threading.enumerate())


async def until(condition: Callable[[], bool | Awaitable[bool]], seconds: float = 10) -> None:
    """Wait until the condition holds; fail if it does not within this time."""
    async with asyncio.timeout(seconds):
        while True:
            holds = condition()
            if await holds if isawaitable(holds) else holds:
                return
            await asyncio.sleep(0.01)


def new_user(name: str = "Ada") -> User:
    return User(name=name, email=f"{uuid4()}@example.com")


async def fetch(statement: str) -> Sequence[Row[Any]]:
    """Ask the primary database on a connection that is none of the sessions'."""
    engine = make_migration_engine(get_database())
    try:
        async with engine.connect() as connection:
            return (await connection.execute(text(statement))).all()
    finally:
        await engine.dispose()


async def stored_users() -> int:
    """Count the users that are committed."""
    [(count,)] = await fetch("SELECT count(*) FROM users")
    return int(count)


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


async def lose_transaction(session: AsyncSession) -> None:
    """Write a row, and let the database give up the transaction in a statement that is forgiven."""
    session.add(new_user())
    await session.flush()
    escape = " OR ROLLBACK" if session.get_bind().dialect.name == "sqlite" else ""
    with pytest.raises(IntegrityError):
        await session.execute(text(f"INSERT{escape} INTO users SELECT * FROM users"))


async def violate_at_commit(session: AsyncSession) -> None:
    """Write a row that no statement refuses, and COMMIT does."""
    await session.execute(text("CREATE TABLE parents (id INTEGER PRIMARY KEY)"))
    await session.execute(
        text(
            "CREATE TABLE children (parent_id INTEGER REFERENCES parents (id) "
            "DEFERRABLE INITIALLY DEFERRED)"
        )
    )
    await session.execute(text("INSERT INTO children VALUES (1)"))


@asynccontextmanager
async def serve(app: FastAPI) -> AsyncGenerator[AsyncClient, None]:
    """Serve the app with uvicorn on a free port, and yield a client for it."""
    config = uvicorn.Config(app, port=0, log_config=None)
    server = uvicorn.Server(config)
    with config.bind_socket() as bound:
        host, port = bound.getsockname()
        serving = asyncio.create_task(server.serve([bound]))
        await until(lambda: server.started or serving.done())
        try:
            assert server.started, serving.result()
            async with AsyncClient(base_url=f"http://{host}:{port}") as client:
                yield client
        finally:
            server.should_exit = True
            await serving
