"""Alembic revisions of every database, and functions that apply and list them. See `upgrade`.

The revisions are part of the package because the readiness probe must know the newest one.
`upgrade`, `upgrade_all`, `write_sql`, `pending` and `run` start an event loop: from a coroutine,
call them with `asyncio.to_thread`.
"""

import asyncio
import logging
import os
import sys
import traceback
from collections.abc import Callable
from functools import cache
from io import StringIO
from pathlib import Path
from typing import TypeVar

from alembic import command
from alembic.config import Config
from alembic.runtime.migration import MigrationContext
from alembic.script import ScriptDirectory
from alembic.util import CommandError
from sqlalchemy import Connection
from sqlalchemy.exc import OperationalError, SQLAlchemyError

from app.core.config import DATABASES, DatabaseSettings, get_database, variable
from app.core.database.engine import make_migration_engine
from app.core.db import ConfigurationError, DatabaseNotFoundError
from app.migrations.lock import lock

Result = TypeVar("Result")

FOLDER = Path(__file__).parent

logger = logging.getLogger(__name__)


def databases() -> list[str]:
    """Return the names of the databases that have revisions; raise `CommandError` if none has."""
    if not (names := _with_revisions()):
        advice = "add the folders of the revisions, which are missing or cannot be read"
        if any(os.access(FOLDER / name, os.R_OK) for name in DATABASES):
            advice = 'write the first one with `make revision MESSAGE="create tables"`'
        raise CommandError(f"no database has a revision in {FOLDER}: {advice}")
    return names


def _with_revisions() -> list[str]:
    return sorted(folder.name for folder in FOLDER.iterdir() if any(folder.glob("[!_]*.py")))


def config(database: str) -> Config:
    """Return Alembic's configuration for one database, as `alembic -n NAME` reads it."""
    alembic = Config(ini_section=database)
    alembic.set_section_option(database, "script_location", _escaped(FOLDER))
    alembic.set_section_option(database, "version_locations", _escaped(FOLDER / database))
    alembic.set_section_option(database, "path_separator", "newline")
    return alembic


def upgrade(database: str, settings: DatabaseSettings | None = None) -> list[str]:
    """Upgrade a database to its newest revision; return the applied revisions in order.

    If several processes call this at the same time, one applies the revisions and the others wait.

    Args:
        database: whose revisions to apply.
        settings: the database to upgrade, if not the one of this name; a tenant's, for example.

    Raises:
        CommandError: the database cannot be reached, or another process holds the lock for longer
            than MIGRATION_LOCK_TIMEOUT.
    """
    settings = settings or database_settings(database)
    if settings.pgbouncer and settings.migration_database_url is None:
        direct = variable(settings.name, "migration_database_url")
        raise CommandError(f"migrations need a lock, which PgBouncer cannot hold: set {direct}")

    def apply(connection: Connection) -> list[str]:
        if not _pending(database, connection):
            return []
        with lock(connection, database, settings.migration_lock_timeout):
            revisions = _pending(database, connection)
            if revisions:
                alembic = config(database)
                alembic.attributes["connection"] = connection
                command.upgrade(alembic, "head")
            return revisions

    return run(database, apply, settings)


def upgrade_all() -> None:
    """Upgrade every database to its newest revision, and log the applied revisions."""
    for name in databases():
        revisions = upgrade(name)
        if revisions:
            logger.info("%s: %s applied: %s", name, len(revisions), ", ".join(revisions))


def write_sql(database: str) -> None:
    """Print the SQL that `upgrade` would run.

    Raises:
        CommandError: a revision reads the database, as the copy of a table on SQLite does. Nothing
            is printed.
    """
    current = run(database, current_heads)
    if not _pending_after(database, current):
        return
    alembic = config(database)
    alembic.output_buffer = StringIO()
    try:
        command.upgrade(alembic, f"{current[0] if current else 'base'}:head", sql=True)
    except (AttributeError, CommandError, SQLAlchemyError) as error:
        for frame in traceback.extract_tb(error.__traceback__):
            if (path := Path(frame.filename)).parent == FOLDER / database:
                raise CommandError(
                    f"{path.name}, line {frame.lineno}, has to read the database, or is wrong "
                    f"({error}): run `python -m app migrate --database {database}`"
                ) from error
        raise
    sys.stdout.write(alembic.output_buffer.getvalue())


def pending(database: str) -> list[str]:
    """Return the pending revisions of a database, the oldest first.

    None are pending if the database has an unknown revision: a newer release has migrated it.
    """
    return _pending_after(database, run(database, current_heads))


def current_heads(connection: Connection) -> tuple[str, ...]:
    """Return the current revisions of a database, without their ancestors."""
    # Alembic creates its table again for each context: the engine would keep each SELECT it has compiled.
    uncached = connection.execution_options(compiled_cache=None)
    heads = MigrationContext.configure(uncached).get_current_heads()
    connection.rollback()
    return heads


def is_behind(database: str, current: tuple[str, ...]) -> bool:
    """Return whether a database with these revisions lacks one, or has another database's."""
    if database not in databases():
        return False
    return _owner_of(database, current) is not None or bool(_pending_after(database, current))


def shipped(database: str) -> list[str]:
    """Return all revisions of a database, the oldest first."""
    return [revision.revision for revision in reversed([*_script(database).walk_revisions()])]


@cache
def _script(database: str) -> ScriptDirectory:
    script = ScriptDirectory.from_config(config(database))
    if database in _with_revisions() and not script.get_bases():
        raise CommandError(
            f"Alembic finds no revision in {str(FOLDER / database)!r}: "
            "move the service to a path without a line break"
        )
    return script


def _pending(database: str, connection: Connection) -> list[str]:
    return _pending_after(database, current_heads(connection))


def _pending_after(database: str, current: tuple[str, ...]) -> list[str]:
    if other := _owner_of(database, current):
        raise CommandError(
            f"the database {database!r} has the tables of {other!r}: each needs a URL of its own"
        )
    if not {*current} <= {*shipped(database)}:
        return []
    steps = _script(database).iterate_revisions("heads", current or "base", implicit_base=True)
    return [step.revision for step in reversed([*steps])]


def run(
    database: str,
    function: Callable[[Connection], Result],
    settings: DatabaseSettings | None = None,
) -> Result:
    """Call a function with a connection for DDL, and commit.

    Raises:
        CommandError: a setting is wrong, or the connection fails. Alembic prints its message.
    """
    settings = settings or database_settings(database)

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
        if error.statement is not None:  # a statement failed, not the connection
            raise
        raise CommandError(f"the database {database!r} cannot be used: {error.orig}") from error


def database_settings(database: str) -> DatabaseSettings:
    """Return the settings of a database; raise `CommandError` if they are wrong."""
    try:
        return get_database(database)
    except (ConfigurationError, DatabaseNotFoundError) as error:
        raise CommandError(str(error)) from error


def _owner_of(database: str, current: tuple[str, ...]) -> str | None:
    """Return the name of the other database that these revisions belong to, or None."""
    others = (name for name in _with_revisions() if name != database)
    return next((name for name in others if {*current} & {*shipped(name)}), None)


def _escaped(path: Path) -> str:
    """Escape a path for an ini file."""
    return str(path).replace("%", "%%")
