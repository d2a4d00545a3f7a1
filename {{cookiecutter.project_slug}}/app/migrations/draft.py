"""Checks a draft of `alembic revision --autogenerate`: refuses an empty one, warns of lost rows."""

import sys
from collections.abc import Iterable, Iterator

from alembic.operations.ops import MigrationScript, UpgradeOps
from alembic.runtime.migration import MigrationContext
from alembic.util import CommandError

from app import migrations


def require_newest_revision(database: str) -> None:
    """Raise `CommandError` if a draft would repeat revisions that are not applied yet."""
    if pending := migrations.pending(database):
        raise CommandError(
            f"the database {database!r} has unapplied revisions ({', '.join(pending)}): "
            "read them, run `make migrate`, and try again"
        )


def review(
    context: MigrationContext, revision: str | Iterable[str | None], drafts: list[MigrationScript]
) -> None:
    """Refuse or warn before Alembic writes the file (`process_revision_directives`)."""
    for draft in drafts:
        if draft.upgrade_ops is None or draft.upgrade_ops.is_empty():
            raise CommandError(
                "autogenerate found no difference, so no revision is written: import a new model in "
                "app/models/__init__.py; for rows, a CHECK constraint, or an index on an expression "
                'on SQLite, write an empty revision with `alembic -n DATABASE revision -m "…"`'
            )
        for loss in _losses(draft.upgrade_ops):
            sys.stderr.write(f"warning: {loss}\n")


def _losses(upgrade: UpgradeOps) -> Iterator[str]:
    added: list[tuple[str, str]] = []  # names of columns with their tables, of tables with ""
    dropped: list[tuple[str, str]] = []
    for difference in upgrade.as_diffs():
        match difference:
            case ["add_column" | "remove_column" as kind, _, table, column]:
                (added if kind == "add_column" else dropped).append((table, column.name))
            case ["add_table" | "remove_table" as kind, table]:
                (added if kind == "add_table" else dropped).append(("", table.name))
    for table, name in dropped:
        what = f"the column {table}.{name}" if table else f"the table {name}"
        yield f"the revision drops {what}: remove this if the running release uses it"
        if new := [other for of, other in added if of == table]:
            names = " or ".join(new)
            yield f"if {name} is renamed to {names}, replace the two operations by a rename"
