"""Revisions of every database, and what is done with them.

They are shipped in the package: a service must know the newest one to say whether it is ready.
These functions run an event loop of their own; within one, call them in `asyncio.to_thread`.
"""

import asyncio
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

from alembic import command
from alembic.config import Config
from alembic.runtime.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy import Connection

from app.core.config import get_database
from app.core.engines import make_migration_engine

Result = TypeVar("Result")

FOLDER = Path(__file__).parent


def databases() -> list[str]:
    """Return the names of the databases that have revisions."""
    return sorted(folder.name for folder in FOLDER.iterdir() if any(folder.glob("*.py")))


def config(database: str) -> Config:
    """Return Alembic's configuration for one database: what `alembic -n NAME` reads of the ini."""
    alembic = Config(ini_section=database)
    alembic.set_section_option(database, "script_location", _escaped(FOLDER))
    alembic.set_section_option(database, "version_locations", _escaped(FOLDER / database))
    alembic.set_section_option(database, "path_separator", "os")
    return alembic


def upgrade(database: str) -> None:
    """Bring a database to its newest revision."""
    command.upgrade(config(database), "head")


def pending(database: str) -> list[str]:
    """Return the revisions that a database lacks, the oldest first."""
    script = ScriptDirectory.from_config(config(database))
    current = run(database, _current_heads)
    missing = list(script.iterate_revisions("heads", current or "base"))
    return [revision.revision for revision in reversed(missing)]


def run(database: str, function: Callable[[Connection], Result]) -> Result:
    """Call a function with a connection that is made for DDL, and commit."""

    async def connected() -> Result:
        engine = make_migration_engine(get_database(database))
        try:
            async with engine.begin() as connection:
                return await connection.run_sync(function)
        finally:
            await engine.dispose()

    return asyncio.run(connected())


def _current_heads(connection: Connection) -> tuple[str, ...]:
    return MigrationContext.configure(connection).get_current_heads()


def _escaped(path: Path) -> str:
    """Return a path as an ini file spells it."""
    return str(path).replace("%", "%%")
