"""Migrations: upgrade, downgrade, drift from the models, locks, and transactions of revisions."""

import shutil
from concurrent.futures import ThreadPoolExecutor
from configparser import ConfigParser
from pathlib import Path

import pytest
from alembic import command
from alembic.config import Config
from alembic.script import ScriptDirectory
from alembic.util import CommandError
from sqlalchemy import Connection, inspect
from sqlalchemy.exc import DBAPIError

from app import migrations
from app.core import config
from app.migrations.lock import lock
from app.models import METADATA
from tests.harness.backends import Backend
from tests.support import configure, set_databases

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


def history_with(tmp_path: Path, *operations: str) -> Config:
    """Return the configuration of the primary database, with one more revision of these lines."""
    history = shutil.copytree(migrations.FOLDER / "primary", tmp_path / "primary")
    alembic = migrations.config("primary")
    [head] = ScriptDirectory.from_config(alembic).get_heads()
    lines = ["from alembic import op", f"revision, down_revision = 'next', {head!r}"]
    lines += ["def upgrade():", *(f"    {operation}" for operation in operations)]
    (history / "next.py").write_text("\n".join(lines))
    alembic.set_section_option("primary", "version_locations", str(history))
    return alembic


def test_failing_revision_is_rolled_back_and_earlier_ones_are_kept(
    empty: None, tmp_path: Path
) -> None:
    alembic = history_with(
        tmp_path, "op.execute('CREATE TABLE half (id INTEGER)')", "op.execute('nonsense')"
    )

    with pytest.raises(DBAPIError, match="nonsense"):
        command.upgrade(alembic, "head")

    assert migrations.pending("primary") == []
    assert "half" not in tables("primary")


def test_second_process_waits_for_migration_lock_timeout(
    empty: None, environment: pytest.MonkeyPatch
) -> None:
    configure(environment, migration_lock_timeout=0.2)

    def upgrade_meanwhile(connection: Connection) -> None:
        with lock(connection, "primary", 0), ThreadPoolExecutor(1) as other:
            error = other.submit(migrations.upgrade, "primary").exception()
            assert isinstance(error, CommandError)
            assert str(error).startswith("another process has been changing the database 'primary'")

    migrations.run("primary", upgrade_meanwhile)

    assert tables("primary") == set()
    assert migrations.upgrade("primary")


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
def test_history_has_a_single_head(database: str) -> None:
    assert len(ScriptDirectory.from_config(migrations.config(database)).get_heads()) == 1


@pytest.mark.parametrize("database", DATABASES)
def test_revisions_are_pending_until_they_are_applied(empty: None, database: str) -> None:
    history = list(ScriptDirectory.from_config(migrations.config(database)).walk_revisions())

    assert [step.revision for step in reversed(history)] == migrations.pending(database)

    migrations.upgrade(database)

    assert migrations.pending(database) == []
