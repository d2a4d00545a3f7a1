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
from alembic.util import CommandError
from sqlalchemy import Connection
from sqlalchemy.exc import OperationalError

from app.core.config import DatabaseSettings, get_database
from app.core.engines import make_migration_engine
from app.core.errors import ConfigurationError, DatabaseNotFoundError

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
    """Call a function with a connection that is made for DDL, and commit.

    Raises:
        CommandError: the settings or the server do not let us connect. Alembic shows it as a
            sentence.
    """
    settings = settings_of(database)

    async def connected() -> Result:
        engine = make_migration_engine(settings)
        try:
            async with engine.connect() as connection:
                result = await connection.run_sync(function)
                await connection.commit()
                return result
        finally:
            await engine.dispose()

    try:
        return asyncio.run(connected())
    except OperationalError as error:
        if error.statement is not None:  # it is not about the connection
            raise
        raise CommandError(f"the database {database!r} cannot be used: {error.orig}") from error


def settings_of(database: str) -> DatabaseSettings:
    """Return the settings of a database; what is wrong with them is a `CommandError`."""
    try:
        return get_database(database)
    except (ConfigurationError, DatabaseNotFoundError) as error:
        raise CommandError(str(error)) from error


def _current_heads(connection: Connection) -> tuple[str, ...]:
    return MigrationContext.configure(connection).get_current_heads()


def _escaped(path: Path) -> str:
    """Return a path as an ini file spells it."""
    return str(path).replace("%", "%%")
