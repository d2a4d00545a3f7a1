"""Alembic's environment, shared by all databases.

The section of alembic.ini (`alembic -n primary …`) is the name of the database. Its URL comes from
the settings, not from the ini file, where a `%` in a password would be an error.
"""

from contextlib import nullcontext
from functools import partial

from alembic import context
from alembic.util import CommandError
from sqlalchemy import Connection

from app.core.config import DEFAULT_DATABASE
from app.migrations import database_settings, draft, run
from app.models import METADATA

section = context.config.config_ini_section
database = DEFAULT_DATABASE if section == "alembic" else section
if database not in METADATA:
    raise CommandError(f"{database!r} has no tables: add it to METADATA in app/models/base.py")
is_draft = getattr(context.config.cmd_opts, "autogenerate", False)
heads = context.script.get_heads()
target: object = heads
try:
    target = context.get_revision_argument()  # a tuple for `heads`
except KeyError:
    target = None  # the command applies nothing: `current`, for example
except CommandError:
    pass  # `head` is ambiguous
if len(heads) > 1 and (is_draft or isinstance(target, list | tuple)):
    raise CommandError(
        f"{database!r} has {len(heads)} heads, {' and '.join(sorted(heads))}: join them "
        f"with `alembic -n {database} merge heads -m merge`"
    )


def migrate(connection: Connection | None = None) -> None:
    stored = draft.stored_indexes(connection) if is_draft and connection else []
    context.configure(
        connection=connection,
        url=database_settings(database).migration_url(),
        target_metadata=METADATA[database],
        autogenerate_plugins=draft.PLUGINS,
        compare_server_default=True,
        compare_type=True,
        include_object=draft.is_owned(database),
        literal_binds=connection is None,
        process_revision_directives=partial(draft.review, database) if is_draft else None,
        render_as_batch=True,  # SQLite must copy a table to change it
        render_item=draft.render_item,
        transaction_per_migration=True,
    )
    with context.begin_transaction(), draft.refuse_omissions(stored) if is_draft else nullcontext():
        context.run_migrations()


if context.is_offline_mode():
    migrate()
elif "connection" in context.config.attributes:  # set by `upgrade`, which holds the lock
    migrate(context.config.attributes["connection"])
else:
    if is_draft:
        draft.require_ready(database)
    run(database, migrate)
