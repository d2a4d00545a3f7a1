"""Measures ways to isolate a test that uses the database: the same route test, side by side.

    make -C build/example-service .venv/ready
    cd build/example-service
    .venv/bin/python -m pytest -c pyproject.toml -p tests.conftest ../../benchmarks/isolation.py

prints the median of each way and its ratio to the same test on SQLite in memory, with the tables of the
service and with 30 more. The test creates an application, writes a user and reads the users.
"""

import asyncio
import os
import statistics
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from time import perf_counter
from typing import Any

import pytest
from app.core.db import get_engine, get_session
from app.main import create_app
from app.models import METADATA
from httpx2 import ASGITransport, AsyncClient
from sqlalchemy import Column, Integer, MetaData, String, Table
from sqlalchemy.ext.asyncio import AsyncSession, create_async_engine
from tests.harness.backends import PostgreSQL, SQLite
from tests.harness.postgresql import Clone, Server
from tests.support import migrate, set_databases

ROUNDS = int(os.environ.get("ROUNDS", "40"))


async def route_test(override: Any = None) -> None:
    app = create_app()
    if override:
        app.dependency_overrides |= dict.fromkeys(
            (get_session(), get_session(read_only=True)), override
        )
    async with (
        app.router.lifespan_context(app),
        AsyncClient(transport=ASGITransport(app), base_url="http://test") as client,
    ):
        user = {"name": "Ada", "email": "ada@example.com"}
        assert (await client.post("/users", json=user)).status_code == 201
        assert len((await client.get("/users")).json()["items"]) == 1


class Ways:
    """Each public method is a way: it runs the test and leaves the databases unchanged."""

    def __init__(
        self,
        server: Server,
        templates: Path,
        folder: Path,
        environment: pytest.MonkeyPatch,
        metadata: dict[str, MetaData],
    ) -> None:
        self.server = server
        self.templates = templates
        self.folder = folder
        self.environment = environment
        self.metadata = metadata
        self.clones = {name: server.clone(name, migrate) for name in metadata}
        self.others = {name: Clone(server, c._template) for name, c in self.clones.items()}

    def sqlite_in_memory(self) -> None:
        self._use(dict.fromkeys(self.metadata, "sqlite://"))

        async def test() -> None:
            for name, metadata in self.metadata.items():
                async with get_engine(name).begin() as connection:
                    await connection.run_sync(metadata.create_all)
            await route_test()

        asyncio.run(test())

    def sqlite_file(self) -> None:
        self._use(SQLite(self.folder, self.templates).migrated())
        asyncio.run(route_test())

    def restored_clone(self) -> None:
        """The way of the service's own tests."""
        backend = PostgreSQL(self.server)
        self._use(backend.migrated())
        asyncio.run(route_test())
        backend.clean_up()

    def clone_per_test(self) -> None:
        clones = {name: Clone(self.server, c._template) for name, c in self.clones.items()}
        self._use({name: self.server.url(clone.database) for name, clone in clones.items()})
        asyncio.run(route_test())
        for clone in clones.values():
            clone.drop()

    def truncate(self) -> None:
        self._use_others()
        asyncio.run(route_test())
        for name, clone in self.others.items():
            statement = f"TRUNCATE {', '.join(self.metadata[name].tables)} RESTART IDENTITY CASCADE"
            self.server.run(clone._connection.execute(statement))

    def savepoint(self) -> None:
        """Override the session dependency with sessions in one transaction, and roll it back."""
        self._use_others()

        async def test() -> None:
            engine = create_async_engine(get_engine().url)
            async with engine.connect() as connection:
                await connection.begin()

                async def session() -> AsyncIterator[AsyncSession]:
                    async with AsyncSession(
                        connection,
                        expire_on_commit=False,
                        join_transaction_mode="create_savepoint",
                    ) as session:
                        yield session
                        await session.commit()

                await route_test(session)
                await connection.rollback()
            await engine.dispose()

        asyncio.run(test())

    def _use(self, urls: dict[str, str]) -> None:
        set_databases(self.environment, urls)

    def _use_others(self) -> None:
        self._use({name: self.server.url(clone.database) for name, clone in self.others.items()})


def with_more_tables(number: int) -> dict[str, MetaData]:
    """Return the service's tables, with this number of additional ones in the primary database."""
    metadata = {name: MetaData() for name in METADATA}
    for name, tables in METADATA.items():
        for table in tables.sorted_tables:
            table.to_metadata(metadata[name])
    for n in range(number):
        Table(
            f"more_{n}",
            metadata["primary"],
            Column("id", Integer, primary_key=True),
            Column("name", String, unique=True),
        )
    return metadata


def add_tables(url: str, metadata: MetaData) -> None:
    async def add() -> None:
        engine = create_async_engine(url.replace("postgresql:", "postgresql+asyncpg:"))
        async with engine.begin() as connection:
            await connection.run_sync(metadata.create_all)
        await engine.dispose()

    asyncio.run(add())


def medians(ways: Ways) -> dict[str, float]:
    """Return the median of each way in milliseconds. Each round runs all ways."""
    names = [name for name in vars(Ways) if not name.startswith("_")]
    seconds: dict[str, list[float]] = {name: [] for name in names}
    for number in range(ROUNDS + 1):
        for name in names:
            way: Callable[[], None] = getattr(ways, name)
            start = perf_counter()
            way()
            if number:  # the first round is a warm-up
                seconds[name].append(perf_counter() - start)
    return {name: statistics.median(values) * 1000 for name, values in seconds.items()}


@pytest.mark.postgresql
@pytest.mark.parametrize("more", [0, 30])
def test_isolation(  # noqa: PLR0913, PLR0917, fixtures
    more: int,
    postgresql: Server,
    sqlite_templates: Path,
    tmp_path: Path,
    environment: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    metadata = with_more_tables(more)
    for name, clone in {name: postgresql.clone(name, migrate) for name in METADATA}.items():
        add_tables(postgresql.url(clone._template), metadata[name])
        clone.replace()
    SQLite(tmp_path, sqlite_templates).migrated()
    add_tables(f"sqlite+aiosqlite:///{sqlite_templates}/primary", metadata["primary"])

    ways = Ways(postgresql, sqlite_templates, tmp_path, environment, metadata)
    figures = medians(ways)
    for clone in ways.others.values():
        clone.drop()

    with capsys.disabled():
        print(f"\n{more} more tables")
        for name, figure in figures.items():
            ratio = figure / figures["sqlite_in_memory"]
            print(f"{name:20}{figure:8.1f} ms{ratio:8.2f}")
