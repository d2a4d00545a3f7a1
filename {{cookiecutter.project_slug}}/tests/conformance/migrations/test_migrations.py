"""Migrations in rarer cases: failing revisions, locks, copied tables, servers that do not respond."""

import os
import shutil
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from shlex import quote
from typing import Any

import pytest
from alembic import command
from alembic.config import Config
from alembic.operations import Operations
from alembic.runtime.migration import MigrationContext
from alembic.script import ScriptDirectory
from alembic.util import CommandError
from sqlalchemy import Connection, inspect
from sqlalchemy.exc import DBAPIError

from app import migrations
from app.core import config
from app.core.config import variable
from app.migrations.lock import lock
from tests.conformance.processes import ALEMBIC, run_all
from tests.harness.backends import Backend
from tests.support import configure, set_databases

ROOT = Path(__file__).parents[3]
DATABASES = migrations.databases()


@pytest.fixture
def empty(backend: Backend, environment: pytest.MonkeyPatch) -> None:
    """Databases without tables."""
    set_databases(environment, {name: backend.new() for name in DATABASES})


def tables(database: str) -> set[str]:
    return set(migrations.run(database, lambda connection: inspect(connection).get_table_names()))


@pytest.mark.sqlite
def test_batch_operation_on_sqlite_keeps_the_rows_that_refer_to_the_table(empty: None) -> None:
    def change(connection: Connection) -> tuple[Any, ...]:
        for statement in (
            "CREATE TABLE parents (id INTEGER PRIMARY KEY, name TEXT)",
            "CREATE TABLE children (parent_id INTEGER REFERENCES parents ON DELETE CASCADE)",
            "INSERT INTO parents VALUES (1, 'a')",
            "INSERT INTO children VALUES (1)",
        ):
            connection.exec_driver_sql(statement)
        operations = Operations(MigrationContext.configure(connection))
        with operations.batch_alter_table("parents", recreate="always") as table:
            table.alter_column("name", nullable=False)
        return tuple(connection.exec_driver_sql("SELECT * FROM children").all())

    assert migrations.run("primary", change) == ((1,),)


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


def test_revision_can_run_statements_outside_of_the_transaction(
    empty: None, tmp_path: Path
) -> None:
    alembic = history_with(
        tmp_path,
        "with op.get_context().autocommit_block(): op.execute('VACUUM')",
        "op.execute('CREATE TABLE later (id INTEGER)')",
    )

    command.upgrade(alembic, "head")

    assert "later" in tables("primary")


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
def test_revisions_are_pending_until_they_are_applied(empty: None, database: str) -> None:
    history = list(ScriptDirectory.from_config(migrations.config(database)).walk_revisions())

    assert [step.revision for step in reversed(history)] == migrations.pending(database)

    migrations.upgrade(database)

    assert migrations.pending(database) == []


def test_migrated_database_needs_no_lock(empty: None) -> None:
    migrations.upgrade("primary")

    def upgrade_meanwhile(connection: Connection) -> None:
        with lock(connection, "primary", 0), ThreadPoolExecutor(1) as other:
            assert other.submit(migrations.upgrade, "primary").result() == []

    migrations.run("primary", upgrade_meanwhile)


def test_database_migrated_by_a_newer_release_has_no_pending_revisions(empty: None) -> None:
    migrations.upgrade("primary")
    newer = "UPDATE alembic_version SET version_num = 'newer'"
    migrations.run("primary", lambda connection: connection.exec_driver_sql(newer))

    assert migrations.pending("primary") == []
    assert migrations.upgrade("primary") == []


def test_unnamed_database_gets_the_revisions_of_a_named_one(empty: None, backend: Backend) -> None:
    settings = config.get_database().for_url(backend.new(), name="tenant")

    assert migrations.upgrade("primary", settings) == migrations.shipped("primary")
    assert migrations.upgrade("primary", settings) == []
    assert tables("primary") == set()  # the named one is unchanged


def test_unnamed_database_behind_pgbouncer_needs_a_direct_url() -> None:
    settings = config.get_database().for_url("postgresql://h/d", name="tenant", pgbouncer=True)

    with pytest.raises(CommandError, match="set DATABASES__TENANT__MIGRATION_DATABASE_URL"):
        migrations.upgrade("primary", settings)


def test_database_with_the_tables_of_another_one_is_refused(
    empty: None, environment: pytest.MonkeyPatch
) -> None:
    first, *others = DATABASES
    migrations.upgrade(first)
    for other in others:
        set_databases(environment, {other: os.environ[variable(first)]})

        with pytest.raises(
            CommandError, match=f"{other!r} has the tables of {first!r}: each needs"
        ):
            migrations.upgrade(other)
        assert migrations.is_behind(other, tuple(migrations.shipped(first)))


def test_unreachable_server_is_a_command_error(
    environment: pytest.MonkeyPatch,
) -> None:
    environment.setenv("DATABASE_URL", "postgresql://u:hidden@127.0.0.1:1/d")

    with pytest.raises(CommandError, match="the database 'primary' cannot be used: "):
        migrations.upgrade("primary")


def test_wrong_setting_is_a_command_error(environment: pytest.MonkeyPatch) -> None:
    environment.setenv("DATABASE_URL", "mysql://u:hidden@h/d")

    with pytest.raises(CommandError, match="DATABASE_URL: the database 'mysql' is not supported"):
        migrations.upgrade("primary")


@pytest.mark.parametrize("database", DATABASES)
def test_alembic_command_selects_the_database_by_its_ini_section(
    empty: None, database: str, tmp_path: Path
) -> None:
    alembic = f"-c {quote(str(ROOT))}/alembic.ini -n {database}"
    variables = {**os.environ, "PYTHONPATH": str(ROOT)}
    commands = [f"{alembic} upgrade head", f"{alembic} check"]
    outputs, error = run_all(ALEMBIC, *commands, variables=variables, folder=tmp_path)  # no .env

    assert "exit code" not in "".join(outputs), error
    assert migrations.pending(database) == []
