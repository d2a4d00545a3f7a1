"""Up, no drift, down and up again; one head each."""

import subprocess
import sys
from pathlib import Path

import pytest
from alembic import command
from alembic.script import ScriptDirectory
from sqlalchemy import inspect

from app import migrations
from app.models import METADATA
from tests.support import set_databases

DATABASES = migrations.databases()


@pytest.fixture
def empty(environment: pytest.MonkeyPatch, tmp_path: Path) -> None:
    set_databases(environment, tmp_path)


def tables(database: str) -> set[str]:
    return set(migrations.run(database, lambda connection: inspect(connection).get_table_names()))


def test_every_database_of_the_models_has_revisions() -> None:
    assert sorted(METADATA) == DATABASES


@pytest.mark.parametrize("database", DATABASES)
def test_up_makes_what_the_models_say_and_down_leaves_nothing(empty: None, database: str) -> None:
    config = migrations.config(database)

    for _ in range(2):
        command.upgrade(config, "head")
        command.check(config)
        assert tables(database) == {*METADATA[database].tables, "alembic_version"}

        command.downgrade(config, "base")
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


@pytest.mark.parametrize("database", DATABASES)
def test_alembic_names_the_database_by_its_section(empty: None, database: str) -> None:
    alembic = [sys.executable, "-m", "alembic", "-n", database]
    root = Path(__file__).parents[2]

    subprocess.run([*alembic, "upgrade", "head"], check=True, cwd=root)
    subprocess.run([*alembic, "check"], check=True, cwd=root)

    assert migrations.pending(database) == []


def test_revision_that_fails_leaves_nothing_behind(empty: None) -> None:
    def fail_half_way(connection: object) -> None:
        METADATA["primary"].create_all(connection)  # type: ignore[arg-type]
        raise RuntimeError

    with pytest.raises(RuntimeError):
        migrations.run("primary", fail_half_way)

    assert tables("primary") == set()
