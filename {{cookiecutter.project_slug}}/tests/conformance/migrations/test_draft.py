"""Drafts of revisions: refused if they are empty or too early, with warnings if they drop rows."""

import enum
import os
import re
import shutil
from argparse import Namespace
from collections.abc import Callable, Iterator
from decimal import Decimal
from pathlib import Path
from typing import Any, Literal

import pytest
from alembic import command
from alembic.config import Config
from alembic.util import CommandError
from sqlalchemy import (
    ARRAY,
    JSON,
    BigInteger,
    Boolean,
    Column,
    Computed,
    Connection,
    Date,
    DateTime,
    DefaultClause,
    Dialect,
    Enum,
    FetchedValue,
    Float,
    Identity,
    Index,
    Integer,
    Interval,
    LargeBinary,
    MetaData,
    Numeric,
    Sequence,
    String,
    Table,
    Text,
    TypeDecorator,
    Uuid,
    false,
    func,
    text,
    true,
)
from sqlalchemy.dialects import postgresql
from sqlalchemy.dialects.postgresql import JSONB
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column
from sqlalchemy.types import TypeEngine, UserDefinedType

from app import migrations
from app.core.config import variable
from app.models import METADATA
from app.models.base import TYPES, UtcDateTime
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


def apply(alembic: Config) -> None:
    """Run the newest revision up, down and up; compare the models with the database."""
    migrations._script.cache_clear()
    alembic.cmd_opts = None
    command.upgrade(alembic, "head")
    command.downgrade(alembic, "-1")
    command.upgrade(alembic, "head")
    command.check(alembic)
    alembic.cmd_opts = Namespace(autogenerate=True)


def create_tables(alembic: Config, **tables: list[str]) -> None:
    """Create tables in a revision, and remove them from the models."""
    for name, columns in tables.items():
        add_table(name, *columns)
    draft(alembic)
    apply(alembic)
    for name in tables:
        remove_table(name)


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
    create_tables(alembic, people=["id", "name"], extra=["id"])
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
    create_tables(alembic, old=["id"])
    add_table("new", "id")

    draft(alembic)

    assert "warning: if old is renamed to new, replace" in capsys.readouterr().err


@pytest.mark.parametrize("name", ["spatial_ref_sys", "email", "create users"])
def test_draft_does_not_drop_the_table_of_another_program(alembic: Config, name: str) -> None:
    """Whether or not a revision contains this name, for a column or an index."""

    def create(connection: Connection) -> None:
        connection.exec_driver_sql(f'CREATE TABLE "{name}" (srid INTEGER PRIMARY KEY)')
        connection.exec_driver_sql("CREATE VIEW user_names AS SELECT name FROM users")

    migrations.run("primary", create)

    with pytest.raises(CommandError, match="found no difference"):
        draft(alembic)


def test_draft_drops_tables_that_a_revision_has_created_in_any_way(
    alembic: Config, backend: Backend, capsys: pytest.CaptureFixture[str]
) -> None:
    schema = {"postgresql": "public", "sqlite": "main"}[backend.kind]
    create_tables(alembic, plain=["id"], old=["id"])
    before = files()
    alembic.cmd_opts = Namespace(autogenerate=False)
    command.revision(alembic, MESSAGE)
    [made] = files() - before
    operations = [
        "op.execute('create table if not exists by_sql (id INTEGER)')",
        "op.execute('CREATE TABLE \"Quoted\" (id INTEGER)')",
        f"op.execute('CREATE TABLE {schema}.other (id INTEGER)')",
        "op.execute('/* create table a */ SELECT 1 -- create table b')",
        "op.rename_table('old', new_table_name='new')",
    ]
    made.write_text(made.read_text().replace("pass", "\n    ".join(operations), 1))
    migrations._script.cache_clear()
    migrations.upgrade("primary")

    def create(connection: Connection) -> None:  # by another program
        connection.exec_driver_sql("CREATE TABLE a (id INTEGER)")
        connection.exec_driver_sql("CREATE TABLE b (id INTEGER)")

    migrations.run("primary", create)

    alembic.cmd_opts = Namespace(autogenerate=True)
    draft(alembic)

    dropped = re.findall(r"drops the table (\w+)", capsys.readouterr().err)
    assert {*dropped} == {"plain", "new", "by_sql", "Quoted", "other"}


class Color(enum.Enum):
    RED = "red"
    BLUE = "blue"


class Colors(enum.Enum):
    RED = "red"
    BLUE = "blue"
    ULTRAMARINE = "ultramarine"


class Money(TypeDecorator[Decimal]):
    impl = Numeric(12, 2)
    cache_ok = True

    def __init__(self, currency: str) -> None:
        super().__init__()
        self.currency = currency


class Settings(TypeDecorator[Any]):
    impl = JSONB
    cache_ok = True

    def load_dialect_impl(self, dialect: Dialect) -> TypeEngine[Any]:
        return super().load_dialect_impl(dialect) if dialect.name == "postgresql" else JSON()


class Point(UserDefinedType[str]):
    cache_ok = True

    def get_col_spec(self, **_: Any) -> str:
        return "VARCHAR(40)"

    def __repr__(self) -> str:
        return "Point()"


TEXTS: list[Any] = ["it's 100%", "'quoted'", "a:b", "", "%s", "back\\slash", '"', "::", "'::"]
TEXTS += [text("'it''s 100%'"), text("'100%'"), text("lower('A%')")]

EXPRESSIONS: list[tuple[str, Any, Any]] = [
    ("twice", Integer, "id * 2"),
    ("c", Integer, "(id + 1) * -2"),  # a part of the name before
    ("d", String(50), "lower(title)"),
    ("e", String(50), "title || ', AS (' || title"),
    ("f", String(50), "coalesce(title, 'it''s 100%')"),
    ("g", Boolean, "id in (1, 2) and id != 3 or id between 4 and 5"),
    ("h", String(50), "case when id > 0 then 'a' else title end"),
    ("i", String(50), func.upper(Column("title", String(50)) + "'")),
    ("order", Numeric(5, 2), "id / 2.0"),
]

COLUMNS: dict[str, Callable[[], list[Column[Any]]]] = {
    "enum": lambda: [
        Column("a", Enum(Color, native_enum=False, length=50), server_default="RED"),
        Column("b", Enum("x", "y", native_enum=False)),
    ],
    "json": lambda: [
        Column("a", JSON, server_default="{}"),
        Column("b", JSON().with_variant(JSONB(), "postgresql"), server_default="[]"),
    ],
    "decorated types": lambda: [
        Column("a", UtcDateTime),
        Column("b", Money("SEK")),
        Column("c", Settings),
    ],
    "other types": lambda: [Column("a", Point()), Column("b", Point(), nullable=False)],
    "arrays": lambda: [
        Column("a", ARRAY(Money("SEK")).with_variant(JSON(), "sqlite")),
        Column("b", JSON().with_variant(postgresql.ARRAY(String(5)), "postgresql")),
        Column("c", ARRAY(String(5)).with_variant(JSON(), "sqlite")),
        Column("d", postgresql.ARRAY(String(5)).with_variant(JSON(), "sqlite")),
        Column("e", postgresql.ARRAY(JSONB).with_variant(JSON(), "sqlite")),
    ],
    "texts as defaults": lambda: [
        Column(f"c{number}", String(50), server_default=value) for number, value in enumerate(TEXTS)
    ],
    "other defaults": lambda: [
        Column("a", Integer, server_default="0"),
        Column("b", Boolean, server_default="true"),
        Column("c", Boolean, server_default=true()),
        Column("d", Numeric(5, 2), server_default="1.5"),
        Column("e", Date, server_default="2000-01-01"),
        Column("f", DateTime(timezone=True), server_default=func.now()),
        Column("g", Uuid, server_default="00000000-0000-0000-0000-000000000001"),
        Column("h", Boolean, server_default=false()),
        Column("i", DateTime(timezone=True), server_default=func.current_timestamp()),
        Column("j", String(50), server_default=func.lower("A%")),
        Column("k", Integer, server_default=text("1 + 1")),
        Column("l", Interval, server_default="1 day"),
        Column("m", ARRAY(Integer).with_variant(JSON(), "sqlite"), server_default="{}"),
        Column("n", LargeBinary, server_default="x"),
        Column("o", Float, server_default=text("0.5")),
        Column("draft", Boolean, server_default="true"),
    ],
    "values that triggers write": lambda: [
        Column("a", Integer, FetchedValue()),
        Column("b", String(50), server_onupdate=FetchedValue()),
        Column("c", String(50), server_default="a", server_onupdate=FetchedValue()),
    ],
    "sequences": lambda: [Column("a", Integer, Sequence("numbers"))],
    "stored expressions": lambda: [
        Column(name, kind, Computed(sql, persisted=True)) for name, kind, sql in EXPRESSIONS
    ],
    "virtual expressions": lambda: [
        Column(name, kind, Computed(sql, persisted=False)) for name, kind, sql in EXPRESSIONS
    ],
}


def has_virtual_columns(connection: Connection) -> bool:
    return bool(getattr(connection.dialect, "supports_virtual_generated_columns", True))


@pytest.mark.parametrize("name", COLUMNS)
def test_draft_can_be_applied_up_down_and_up_and_matches_the_models(
    alembic: Config, backend: Backend, environment: pytest.MonkeyPatch, name: str, tmp_path: Path
) -> None:
    if name == "virtual expressions" and not migrations.run("primary", has_virtual_columns):
        pytest.skip("PostgreSQL has them since 18")
    key = Column("id", Integer, primary_key=True)
    title = Column("title", String(50))
    table = Table("documents", METADATA["primary"], key, title, *COLUMNS[name]())
    draft(alembic)
    apply(alembic)

    for column in COLUMNS[name]():
        column.name = column.key = f"new_{column.name}"
        column.nullable = True
        table.append_column(column)
    draft(alembic)
    apply(alembic)

    if backend.kind == "postgresql":  # `make revision` compares with it, whatever the database is
        set_databases(environment, {"primary": f"sqlite:///{tmp_path}/of_postgresql.db"})
        apply(alembic)


@pytest.mark.postgresql
def test_downgrade_to_a_literal_default_runs_on_sqlite(
    alembic: Config, environment: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """PostgreSQL returns the literal with a cast."""
    key = Column("id", Integer, primary_key=True)
    table = Table("documents", METADATA["primary"], key)
    for number, (kind, value) in enumerate(LITERALS):
        table.append_column(Column(f"c{number}", kind, server_default=value))
    draft(alembic)
    apply(alembic)

    remove_table("documents")
    Table("documents", METADATA["primary"], Column("id", Integer, primary_key=True))
    before = files()
    draft(alembic)
    [made] = files() - before
    assert "::" not in made.read_text()
    apply(alembic)
    set_databases(environment, {"primary": f"sqlite:///{tmp_path}/of_postgresql.db"})
    apply(alembic)


LITERALS: list[tuple[Any, str]] = [
    (String(50), "it's 100%"),
    (String(50), "a:b :c"),
    (Numeric(5, 2), "-1.5"),
    (DateTime(timezone=True), "2000-01-01 00:00:00+00"),
    (Date, "2000-01-01"),
]

CHANGED_DEFAULTS: list[tuple[Any, Any, Any]] = [
    (String(50), "it's 100%", "it's 99%"),
    (String(50), "'", None),
    (JSON, "{}", "[]"),
    (Integer, None, "1"),
    (Boolean, true(), false()),
    (DateTime(timezone=True), func.now(), text("'2000-01-01'")),
]


@pytest.mark.parametrize(("kind", "before", "after"), CHANGED_DEFAULTS)
def test_changed_default_is_a_difference(
    alembic: Config, kind: Any, before: Any, after: Any
) -> None:
    table = Table("documents", METADATA["primary"], Column("id", Integer, primary_key=True))
    column = Column("name", kind, server_default=before)
    table.append_column(column)
    draft(alembic)
    apply(alembic)

    column.server_default = None if after is None else DefaultClause(after)
    draft(alembic)
    apply(alembic)


@pytest.mark.postgresql
@pytest.mark.parametrize("is_temporary", [True, False])
def test_role_that_only_reads_finds_no_difference(
    alembic: Config, environment: pytest.MonkeyPatch, is_temporary: bool
) -> None:
    """Whether or not it may create the temporary table that the defaults are compared in."""
    table = Table("documents", METADATA["primary"], Column("id", Integer, primary_key=True))
    table.append_column(Column("a", String(50), server_default="x"))
    table.append_column(Column("b", Boolean, server_default=true()))
    draft(alembic)
    apply(alembic)
    if not is_temporary:
        revoke = text(
            "DO $$ BEGIN EXECUTE format('REVOKE TEMP ON DATABASE %I FROM PUBLIC', "
            "current_database()); END $$"
        )
        migrations.run("primary", lambda connection: connection.execute(revoke))
    url = os.environ[variable("primary")]
    role = "options=-crole%3Dpg_read_all_data"
    set_databases(environment, {"primary": url + ("&" if "?" in url else "?") + role})

    alembic.cmd_opts = None
    command.check(alembic)

    table.c.a.server_default = DefaultClause("y")
    with pytest.raises(CommandError, match="modify_default"):
        command.check(alembic)


def test_default_of_a_column_whose_type_changes(alembic: Config) -> None:
    table = Table("documents", METADATA["primary"], Column("id", Integer, primary_key=True))
    table.append_column(Column("a", String(50), server_default="x"))
    table.append_column(Column("b", Integer, server_default="1"))
    draft(alembic)
    apply(alembic)

    table.c.a.type = Text()
    table.c.b.type = BigInteger()
    draft(alembic)
    apply(alembic)


GENERATED: list[tuple[Any, Any]] = [
    (Computed("id * 2", persisted=True), Computed("id * 3", persisted=True)),
    (Computed("id * 2", persisted=True), None),
    (Computed("id * 2", persisted=True), "1"),
    (None, Computed("id * 2", persisted=True)),
    ("1", Computed("id * 2", persisted=True)),
    (Computed("id * 2", persisted=True), Computed("id * 2", persisted=False)),
]


@pytest.mark.parametrize(("before", "after"), GENERATED)
def test_change_of_a_generated_column_is_refused(alembic: Config, before: Any, after: Any) -> None:
    """Also by Alembic's `check`. A revision that drops the column and adds it again works."""
    virtual = isinstance(after, Computed) and not after.persisted
    if virtual and not migrations.run("primary", has_virtual_columns):
        pytest.skip("PostgreSQL has them since 18")

    def column(default: Any) -> Column[Any]:
        if isinstance(default, Computed):
            return Column("double", Integer, Computed(default.sqltext, default.persisted))
        return Column("double", Integer, server_default=default)

    table = Table("documents", METADATA["primary"], Column("id", Integer, primary_key=True))
    table.append_column(column(before))
    draft(alembic)
    apply(alembic)

    table.append_column(column(after), replace_existing=True)
    for compare in (draft, command.check):
        alembic.cmd_opts = Namespace(autogenerate=compare is draft)
        with pytest.raises(CommandError, match=r"documents\.double is generated in another way"):
            compare(alembic)
    alembic.cmd_opts = Namespace(autogenerate=True)

    remove_table("documents")
    table = Table("documents", METADATA["primary"], Column("id", Integer, primary_key=True))
    draft(alembic)
    apply(alembic)
    table.append_column(column(after))
    draft(alembic)
    apply(alembic)


@pytest.mark.parametrize("always", [True, False])
def test_identity_columns(alembic: Config, always: bool) -> None:
    key = Column("id", Integer, Identity(always=always, start=100), primary_key=True)
    table = Table("documents", METADATA["primary"], key)
    table.append_column(Column("number", BigInteger, Identity(always=always, cycle=True)))
    draft(alembic)
    apply(alembic)

    table.append_column(Column("title", String(50)))
    draft(alembic)
    apply(alembic)


def test_changed_identity_is_a_difference_on_postgresql(
    alembic: Config, backend: Backend, environment: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    key = Column("id", Integer, Identity(), primary_key=True)
    Table("documents", METADATA["primary"], key)
    draft(alembic)
    apply(alembic)

    key.server_default = key.identity = Identity(always=True)
    if backend.kind == "postgresql":
        before = files()
        draft(alembic)
        [made] = files() - before
        existing = r"existing_server_default=sa.Identity(), \g<0>"
        written = re.sub(r"server_default=sa.Identity\(", existing, made.read_text())
        condition = 'if op.get_context().dialect.name == "postgresql":'
        made.write_text(re.sub(r"with op.batch.*\n", rf"{condition}\n     \g<0>", written))
        apply(alembic)
        set_databases(environment, {"primary": f"sqlite:///{tmp_path}/of_postgresql.db"})
        apply(alembic)
    else:
        with pytest.raises(CommandError, match="found no difference"):
            draft(alembic)


def add_model(kind: Any) -> None:
    """Add the table of a model with attributes of this type to the primary database."""
    base = {"metadata": METADATA["primary"], "type_annotation_map": TYPES}
    attributes = {
        "__tablename__": "paints",
        "__annotations__": {"id": Mapped[int], "color": Mapped[kind], "other": Mapped[kind | None]},
        "id": mapped_column(primary_key=True),
    }
    type("Paint", (type("Base", (DeclarativeBase,), base),), attributes)


def remove_table(name: str) -> None:
    METADATA["primary"].remove(METADATA["primary"].tables[name])


@pytest.mark.parametrize(
    ("few", "many", "value"),
    [
        (Color, Colors, Colors.ULTRAMARINE),
        (Literal["red"], Literal["red", "ultramarine"], "ultramarine"),
    ],
)
def test_new_member_of_an_enum_needs_no_revision(
    alembic: Config, few: Any, many: Any, value: Any
) -> None:
    add_model(few)
    draft(alembic)
    apply(alembic)

    remove_table("paints")
    add_model(many)
    with pytest.raises(CommandError, match="found no difference"):
        draft(alembic)
    insert = METADATA["primary"].tables["paints"].insert()
    migrations.run("primary", lambda connection: connection.execute(insert.values(color=value)))

    remove_table("paints")
    draft(alembic)
    apply(alembic)


NAMED_TYPES: list[Callable[[], Any]] = [
    lambda: Enum(Color),
    lambda: Enum(Color, create_type=False),
    lambda: ARRAY(Enum(Color)),
    lambda: JSON().with_variant(postgresql.ENUM(Color), "postgresql"),
    lambda: postgresql.DOMAIN("color", String),
]


@pytest.mark.parametrize("kind", NAMED_TYPES)
def test_type_that_revisions_cannot_change_is_refused(
    alembic: Config, kind: Callable[[], Any]
) -> None:
    add_table("paints", "id")
    METADATA["primary"].tables["paints"].append_column(Column("color", kind()))

    with pytest.raises(CommandError, match=r"^paints.color needs the PostgreSQL type 'color', "):
        draft(alembic)


@pytest.mark.parametrize("name", ["new", "email"])
def test_such_a_type_in_an_existing_table_is_refused(alembic: Config, name: str) -> None:
    users = METADATA["primary"].tables["users"]
    users.append_column(Column(name, Enum(Color)), replace_existing=True)

    with pytest.raises(CommandError, match=rf"^users.{name} needs the PostgreSQL type 'color', "):
        draft(alembic)


def test_native_enum_with_revisions_of_its_own_works(alembic: Config, backend: Backend) -> None:
    paints = Table("paints", METADATA["primary"], Column("id", Integer, primary_key=True))
    paints.append_column(Column("color", String(9)))
    before = files()
    draft(alembic)
    [made] = files() - before
    native = 'sa.Enum("RED", "BLUE", name="color")'
    drop = "sa.Enum(name='color').drop(op.get_bind())"
    written = made.read_text().replace("sa.String(length=9)", native)
    made.write_text(written.rstrip() + f"\n    {drop}\n")

    paints.append_column(Column("color", Enum(Color)), replace_existing=True)
    migrations._script.cache_clear()
    assert migrations.upgrade("primary")
    apply(alembic)
    insert = paints.insert().values(color=Color.RED)
    migrations.run("primary", lambda connection: connection.execute(insert))
    with pytest.raises(CommandError, match="found no difference"):
        draft(alembic)

    paints.append_column(Column("name", String(9)))
    draft(alembic)
    apply(alembic)


def test_type_that_revisions_create_by_hand_is_accepted(alembic: Config, backend: Backend) -> None:
    add_table("paints", "id")
    color = postgresql.ENUM(Color, name="color", create_type=False)
    paints = METADATA["primary"].tables["paints"]
    paints.append_column(Column("color", color))
    if backend.kind == "postgresql":
        code = postgresql.DOMAIN("code", String(3), create_type=False)
        paints.append_column(Column("code", code))
    before = files()
    draft(alembic)
    [made] = files() - before

    create, drop = (
        '    if op.get_context().dialect.name == "postgresql":\n'
        f'        op.execute("{first}")\n        op.execute("{second}")\n'
        for first, second in (
            ("CREATE TYPE color AS ENUM ('RED', 'BLUE')", "CREATE DOMAIN code AS varchar(3)"),
            ("DROP TYPE color", "DROP DOMAIN code"),
        )
    )
    upgrade = "def upgrade() -> None:\n"
    made.write_text(made.read_text().replace(upgrade, upgrade + create) + drop)
    apply(alembic)


@pytest.mark.postgresql
def test_schema_is_refused_and_its_search_path_works(
    alembic: Config, backend: Backend, environment: pytest.MonkeyPatch
) -> None:
    Table("orders", METADATA["primary"], Column("id", Integer), schema="billing")
    with pytest.raises(CommandError) as refused:
        draft(alembic)
    [parameter] = re.findall(
        r"parameter (options=\S+) to DATABASES__PRIMARY__DATABASE_URL$", str(refused.value)
    )

    remove_table("billing.orders")
    add_table("orders", "id")
    url = backend.new()
    set_databases(environment, {"primary": url})
    migrations.run("primary", lambda c: c.exec_driver_sql("CREATE SCHEMA billing"))
    set_databases(environment, {"primary": url + ("&" if "?" in url else "?") + parameter})
    migrations.upgrade("primary")
    draft(alembic)
    apply(alembic)

    def schemas(connection: Connection) -> set[str]:
        return {
            *connection.scalars(text("SELECT schemaname FROM pg_tables WHERE tablename = 'orders'"))
        }

    assert migrations.run("primary", schemas) == {"billing"}


@pytest.mark.postgresql
def test_index_on_an_expression_of_a_new_column(
    alembic: Config, environment: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    users = METADATA["primary"].tables["users"]
    users.append_column(Column("nickname", String(9)))
    Index("ix_lower_nickname", func.lower(users.c.nickname))
    draft(alembic)
    apply(alembic)

    set_databases(environment, {"primary": f"sqlite:///{tmp_path}/of_postgresql.db"})
    apply(alembic)


def test_index_on_an_expression_is_in_the_draft_or_refused(
    alembic: Config, backend: Backend
) -> None:
    users = METADATA["primary"].tables["users"]
    Index("uq_lower_email", func.lower(users.c.email), unique=True)
    before = files()

    if backend.kind == "sqlite":
        with pytest.raises(CommandError, match=r"incomplete: .*'uq_lower_email'.* `make revision`"):
            draft(alembic)
        assert files() == before
        index = text("CREATE UNIQUE INDEX uq_lower_email ON users (lower(email))")
        migrations.run("primary", lambda connection: connection.execute(index))
        with pytest.raises(CommandError, match="found no difference"):
            draft(alembic)
    else:
        draft(alembic)
        apply(alembic)


def test_changed_condition_of_an_index_is_no_difference(alembic: Config) -> None:
    def add(condition: str) -> None:
        a, where = Column("a", Integer), text(condition)
        index = Index("ix_a", a, postgresql_where=where, sqlite_where=where)
        Table("documents", METADATA["primary"], Column("id", Integer, primary_key=True), a, index)

    add("a > 0")
    draft(alembic)
    apply(alembic)

    remove_table("documents")
    add("a > 1")
    with pytest.raises(CommandError, match="found no difference"):
        draft(alembic)
