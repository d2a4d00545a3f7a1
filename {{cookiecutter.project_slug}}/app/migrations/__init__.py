"""Revisions of every database, and what is done with them.

They are shipped in the package: a service must know the newest one to say whether it is ready.
These functions run an event loop of their own; within one, call them in `asyncio.to_thread`.
"""

import asyncio
import logging
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import TypeVar

from alembic import command
from alembic.config import Config
from alembic.runtime.migration import MigrationContext
from alembic.script import ScriptDirectory
from alembic.util import CommandError
from sqlalchemy import Connection
from sqlalchemy.exc import OperationalError

from app.core.config import DatabaseSettings, get_database, variable
from app.core.database.engine import make_migration_engine
from app.core.db import ConfigurationError, DatabaseNotFoundError
from app.migrations.lock import lock

Result = TypeVar("Result")

FOLDER = Path(__file__).parent

logger = logging.getLogger(__name__)


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


def upgrade(database: str, settings: DatabaseSettings | None = None) -> list[str]:
    """Bring a database to its newest revision; return the revisions that were applied, in order.

    Of processes that do this at the same time one does it, and the others wait for it. With settings
    it is the one that they lead to, which gets the revisions of this name.

    Raises:
        CommandError: the database cannot be reached, or another process does not get ready.
    """
    settings = settings or settings_of(database)
    if settings.pgbouncer and settings.migration_database_url is None:
        direct = variable(settings.name, "migration_database_url")
        raise CommandError(f"a lock is nothing that PgBouncer can hold: set {direct}")

    def apply(connection: Connection) -> list[str]:
        if not _missing(database, connection):
            return []
        with lock(connection, database, settings.migration_lock_timeout):
            missing = _missing(database, connection)
            if missing:
                alembic = config(database)
                alembic.attributes["connection"] = connection
                command.upgrade(alembic, "head")
            return missing

    return run(database, apply, settings)


def upgrade_all() -> None:
    """Bring every database to its newest revision, and log what was done."""
    for name in databases():
        revisions = upgrade(name)
        if revisions:
            logger.info("%s: %s applied: %s", name, len(revisions), ", ".join(revisions))


def write_sql(database: str) -> None:
    """Write to standard output what `upgrade` would do."""
    current = run(database, current_heads)
    if _missing_after(database, current):
        command.upgrade(config(database), f"{current[0] if current else 'base'}:head", sql=True)


def pending(database: str) -> list[str]:
    """Return the revisions that a database lacks, the oldest first.

    A database with a revision that is not shipped lacks none: a newer release has been here.
    """
    return _missing_after(database, run(database, current_heads))


def current_heads(connection: Connection) -> tuple[str, ...]:
    """Return the revisions that a database has, without those that they are based on."""
    heads = MigrationContext.configure(connection).get_current_heads()
    connection.rollback()
    return heads


def is_behind(database: str, current: tuple[str, ...]) -> bool:
    """Say whether a database that has these revisions lacks one, as it does if they are another's."""
    if database not in databases():
        return False
    return _owner_of(database, current) is not None or bool(_missing_after(database, current))


def shipped(database: str) -> list[str]:
    """Return all revisions of a database, the oldest first."""
    return [revision.revision for revision in reversed([*_script(database).walk_revisions()])]


@cache
def _script(database: str) -> ScriptDirectory:
    return ScriptDirectory.from_config(config(database))


def _missing(database: str, connection: Connection) -> list[str]:
    return _missing_after(database, current_heads(connection))


def _missing_after(database: str, current: tuple[str, ...]) -> list[str]:
    if other := _owner_of(database, current):
        raise CommandError(
            f"the database {database!r} has the tables of {other!r}: each needs a URL of its own"
        )
    if not {*current} <= {*shipped(database)}:
        return []
    lacking = _script(database).iterate_revisions("heads", current or "base", implicit_base=True)
    return [revision.revision for revision in reversed([*lacking])]


def run(
    database: str,
    function: Callable[[Connection], Result],
    settings: DatabaseSettings | None = None,
) -> Result:
    """Call a function with a connection that is made for DDL, and commit.

    Raises:
        CommandError: the settings or the server do not let us connect. Alembic shows it as a
            sentence.
    """
    known = settings or settings_of(database)

    async def connected() -> Result:
        engine = make_migration_engine(known)
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


def _owner_of(database: str, current: tuple[str, ...]) -> str | None:
    """Return the name of another database to which these revisions belong, None if there is none."""
    others = (name for name in databases() if name != database)
    return next((name for name in others if {*current} & {*shipped(name)}), None)


def _escaped(path: Path) -> str:
    """Return a path as an ini file spells it."""
    return str(path).replace("%", "%%")
