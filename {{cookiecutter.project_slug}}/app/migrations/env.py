"""Alembic's environment, shared by all databases.

The section of alembic.ini (`alembic -n primary …`) is the name of the database. Its URL comes from
the settings, not from the ini file, where a `%` in a password would be an error.
"""

from typing import Any, Literal

from alembic import context
from alembic.autogenerate.api import AutogenContext
from alembic.util import CommandError
from sqlalchemy import JSON, Connection
from sqlalchemy.dialects.postgresql import JSONB

from app.core.config import DEFAULT_DATABASE
from app.migrations import database_settings, run
from app.migrations.draft import require_newest_revision, review
from app.models import METADATA
from app.models.base import UtcDateTime

section = context.config.config_ini_section
database = DEFAULT_DATABASE if section == "alembic" else section
if database not in METADATA:
    raise CommandError(f"{database!r} has no tables: add it to METADATA in app/models/base.py")
if len(heads := context.script.get_heads()) > 1:
    raise CommandError(
        f"{database!r} has {len(heads)} newest revisions, {' and '.join(sorted(heads))}: join them "
        f"with `alembic -n {database} merge heads -m merge`"
    )
is_draft = getattr(context.config.cmd_opts, "autogenerate", False)


def render_item(type_: str, item: Any, autogen: AutogenContext) -> str | Literal[False]:
    """Render the service's own types as SQLAlchemy's: a revision must not import changing code."""
    if type_ == "type" and isinstance(item, UtcDateTime):
        return "sa.DateTime(timezone=True)"
    if type_ == "type" and isinstance(item, JSONB):  # Alembic forgets an import in a variant
        autogen.imports.add("from sqlalchemy.dialects.postgresql import JSONB")
        return "JSONB()"
    return False


def compare_server_default(_: object, __: object, column: Any, *___: object) -> bool | None:
    """Do not compare the defaults of JSON, for which PostgreSQL has no operator."""
    return False if isinstance(column.type, JSON) else None


def migrate(connection: Connection | None = None) -> None:
    context.configure(
        connection=connection,
        url=database_settings(database).migration_url(),
        target_metadata=METADATA[database],
        compare_server_default=compare_server_default,
        compare_type=True,
        literal_binds=connection is None,
        process_revision_directives=review if is_draft else None,
        render_as_batch=True,  # SQLite must copy a table to change it
        render_item=render_item,
        transaction_per_migration=True,
    )
    with context.begin_transaction():
        context.run_migrations()


if context.is_offline_mode():
    migrate()
elif "connection" in context.config.attributes:  # set by `upgrade`, which holds the lock
    migrate(context.config.attributes["connection"])
else:
    if is_draft:
        require_newest_revision(database)
    run(database, migrate)
