"""What several tests need and no fixture gives."""

import asyncio
import threading
from collections.abc import AsyncGenerator, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
import uvicorn
from fastapi import FastAPI
from httpx2 import AsyncClient
from sqlalchemy import text
from sqlalchemy.exc import IntegrityError
from sqlalchemy.ext.asyncio import AsyncSession

from app import migrations
from app.core.config import get_settings, variable
from app.models import User


def set_databases(patch: pytest.MonkeyPatch, folder: Path) -> None:
    """Let every database be a file in this folder."""
    for name in migrations.databases():
        patch.setenv(variable(name), f"sqlite:///{folder / name}.db")
    get_settings.cache_clear()


def sqlite_connections() -> int:
    """Count the open SQLite connections: aiosqlite has a thread for each."""
    return sum("_connection_worker_thread" in thread.name for thread in threading.enumerate())


async def until(condition: Callable[[], bool], seconds: float = 10) -> None:
    """Wait until the condition holds; fail if it does not within this time."""
    async with asyncio.timeout(seconds):
        while not condition():  # noqa: ASYNC110, nobody signals what is waited for here
            await asyncio.sleep(0.01)


async def lose_transaction(session: AsyncSession) -> None:
    """Write a row, and let the database give up the transaction in a statement that is forgiven."""
    session.add(User(name="Ada", email="ada@example.com"))
    await session.flush()
    with pytest.raises(IntegrityError):
        await session.execute(text("INSERT OR ROLLBACK INTO users SELECT * FROM users"))


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
