"""Drafts of revisions: refused if they are empty or too early, with warnings if they drop rows."""

import shutil
from argparse import Namespace
from collections.abc import Iterator
from pathlib import Path

import pytest
from alembic import command
from alembic.config import Config
from alembic.util import CommandError
from sqlalchemy import JSON, Column, Connection, Integer, MetaData, Table
from sqlalchemy.dialects.postgresql import JSONB

from app import migrations
from app.models import METADATA
from tests.harness.backends import Backend
from tests.support import set_databases

MESSAGE = "it's \"5 $HOME\" \\ '''"


@pytest.fixture
def alembic(migrated: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Config]:
    """The configuration of `alembic -n primary revision --autogenerate`, with copied revisions."""
    metadata = MetaData()
    for table in METADATA["primary"].tables.values():
        table.to_metadata(metadata)
    monkeypatch.setitem(METADATA, "primary", metadata)
    monkeypatch.setattr(
        migrations, "FOLDER", shutil.copytree(migrations.FOLDER, tmp_path / "migrations")
    )
    migrations._script.cache_clear()
    alembic = migrations.config("primary")
    alembic.cmd_opts = Namespace(autogenerate=True)
    yield alembic
    migrations._script.cache_clear()


def files() -> set[Path]:
    return {*(migrations.FOLDER / "primary").glob("*.py")}


def draft(alembic: Config) -> None:
    command.revision(alembic, MESSAGE, autogenerate=True)


def add_table(name: str, *columns: str) -> None:
    Table(name, METADATA["primary"], *(Column(column, Integer) for column in columns))


def create_table(name: str, *columns: str) -> None:
    def create(connection: Connection) -> None:
        Table(name, MetaData(), *(Column(c, Integer) for c in columns)).create(connection)

    migrations.run("primary", create)


def test_draft_on_a_database_that_lacks_a_revision_is_refused(
    alembic: Config, backend: Backend, environment: pytest.MonkeyPatch
) -> None:
    set_databases(environment, {"primary": backend.new()})
    add_table("new", "id")
    before = files()

    with pytest.raises(
        CommandError, match=r"'primary' has unapplied revisions \(\w+(, \w+)*\): read them"
    ):
        draft(alembic)
    assert files() == before


def test_empty_draft_is_refused_and_an_empty_revision_is_not(alembic: Config) -> None:
    before = files()

    with pytest.raises(CommandError, match="found no difference, so no revision is"):
        draft(alembic)
    assert files() == before

    alembic.cmd_opts = Namespace(autogenerate=False)
    command.revision(alembic, MESSAGE)
    assert len(files() - before) == 1


def test_draft_after_an_unapplied_draft_is_refused(
    alembic: Config, capsys: pytest.CaptureFixture[str]
) -> None:
    add_table("new", "id")
    before = files()
    draft(alembic)
    [made] = files() - before
    migrations._script.cache_clear()

    assert not capsys.readouterr().err
    assert eval(made.read_text().splitlines()[0]) == MESSAGE  # noqa: S307, the docstring
    with pytest.raises(CommandError, match="has unapplied revisions"):
        draft(alembic)
    assert migrations.upgrade("primary")


def test_draft_that_drops_something_prints_a_warning(
    alembic: Config, capsys: pytest.CaptureFixture[str]
) -> None:
    create_table("people", "id", "name")
    create_table("extra", "id")
    add_table("people", "id", "full_name", "age")

    draft(alembic)

    assert sorted(capsys.readouterr().err.splitlines()) == [
        "warning: if name is renamed to full_name or age, replace the two operations by a rename",
        "warning: the revision drops the column people.name: "
        "remove this if the running release uses it",
        "warning: the revision drops the table extra: remove this if the running release uses it",
    ]


def test_draft_that_may_rename_a_table_prints_a_warning(
    alembic: Config, capsys: pytest.CaptureFixture[str]
) -> None:
    create_table("old", "id")
    add_table("new", "id")

    draft(alembic)

    assert "warning: if old is renamed to new, replace" in capsys.readouterr().err


def test_draft_with_json_can_be_applied_and_matches_the_model(alembic: Config) -> None:
    either = JSON().with_variant(JSONB(), "postgresql")
    columns = [Column("a", JSON, server_default="{}"), Column("b", either, server_default="[]")]
    Table("documents", METADATA["primary"], Column("id", Integer, primary_key=True), *columns)

    draft(alembic)
    command.upgrade(alembic, "head")

    alembic.cmd_opts = None
    command.check(alembic)
