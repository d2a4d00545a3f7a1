"""Migrations: upgrade, downgrade, one head, and drift from the models."""

from configparser import ConfigParser
from pathlib import Path

import pytest
from alembic import command
from alembic.script import ScriptDirectory
from sqlalchemy import inspect

from app import migrations
from app.core import config
from app.models import METADATA
from tests.harness.backends import Backend
from tests.migrations.rows import replace_rows
from tests.support import set_databases

ROOT = Path(__file__).parents[2]
DATABASES = migrations.databases()


@pytest.fixture
def empty(backend: Backend, environment: pytest.MonkeyPatch) -> None:
    """Databases without tables."""
    set_databases(environment, {name: backend.new() for name in DATABASES})


def tables(database: str) -> set[str]:
    return set(migrations.run(database, lambda connection: inspect(connection).get_table_names()))


def test_every_database_has_settings_tables_revisions_and_an_ini_section() -> None:
    ini = ConfigParser(interpolation=None)
    ini.read(ROOT / "alembic.ini")

    assert sorted(config.DATABASES) == DATABASES
    assert sorted(METADATA) == DATABASES
    assert sorted({*ini.sections()} - {"alembic", "post_write_hooks"}) == DATABASES


@pytest.mark.parametrize("database", DATABASES)
def test_upgrade_matches_the_models_and_downgrade_drops_every_table(
    empty: None, database: str
) -> None:
    alembic = migrations.config(database)

    for _ in range(2):
        command.upgrade(alembic, "head")
        command.check(alembic)
        assert tables(database) == {*METADATA[database].tables, "alembic_version"}

        command.downgrade(alembic, "base")
        assert tables(database) == {"alembic_version"}


@pytest.mark.parametrize("database", DATABASES)
def test_revisions_can_be_applied_to_tables_with_rows(
    empty: None, backend: Backend, environment: pytest.MonkeyPatch, database: str
) -> None:
    untested = []
    for revision in migrations.shipped(database):
        untested += [
            f"before {revision}: {problem}" for problem in migrations.run(database, replace_rows)
        ]
        try:
            command.upgrade(migrations.config(database), revision)
        except Exception as error:
            if is_null(error):
                pytest.fail(
                    f"the revision {revision} fails if a table has rows: {error}\n"
                    "Give the column a server_default, or fill it first: README.md, migrations"
                )
            untested.append(f"{revision}: {getattr(error, 'orig', error)}")
            set_databases(environment, {database: backend.new()})
            command.upgrade(migrations.config(database), revision)
    if untested:
        pytest.skip(
            f"not tested with rows: {'; '.join(untested)}. Add values that the columns accept to "
            "VALUES in tests/migrations/rows.py"
        )


def is_null(error: Exception) -> bool:
    """Return whether a row has no value for a column with NOT NULL."""
    text = str(getattr(error, "orig", ""))
    return getattr(getattr(error, "orig", None), "sqlstate", "") == "23502" or "NOT NULL" in text


@pytest.mark.parametrize("database", DATABASES)
def test_history_has_a_single_head(database: str) -> None:
    heads = ScriptDirectory.from_config(migrations.config(database)).get_heads()
    assert len(heads) == 1, f"run `alembic -n {database} merge heads -m merge`"
