"""Tests docs/migrations.md: runs its revisions, with releases that read and write before and after."""

import asyncio
import os
import shutil
import sqlite3
from collections.abc import AsyncGenerator, Iterator
from contextlib import asynccontextmanager, closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from uuid import UUID, uuid4

import pytest
import sqlalchemy as sa
from alembic import command
from alembic.operations import Operations
from alembic.runtime.migration import MigrationContext
from alembic.script import ScriptDirectory
from alembic.util import CommandError
from httpx2 import AsyncClient
from sqlalchemy.exc import DBAPIError, IntegrityError, OperationalError

from app import migrations
from app.core.config import variable
from app.core.database import sqlite
from app.core.db import get_engine, session_scope
from app.models import METADATA
from app.models.base import utc_now
from tests.conformance.inspection import until_waiting
from tests.docs.conftest import Load
from tests.docs.snippets import ROOT, find_snippet
from tests.inspection import fetch, observer
from tests.support import configure, new_email, new_user, until, user_values

PAGE = ROOT / "docs/migrations.md"
SHIPPED = migrations.FOLDER

USERS = sa.table(
    "users",
    sa.column("id", sa.Uuid),
    sa.column("name", sa.String),
    sa.column("full_name", sa.String),
    sa.column("email", sa.String),
    sa.column("version", sa.Integer),
    sa.column("created_at", sa.DateTime(timezone=True)),
)

INDEX = "SELECT indisvalid FROM pg_index WHERE indexrelid = to_regclass('ix_users_name')"


class History:
    """Revisions of the primary database in a folder of the test; those of the service come first."""

    def __init__(self, folder: Path) -> None:
        self.folder = shutil.copytree(SHIPPED, folder / "migrations")

    @property
    def head(self) -> str | None:
        return ScriptDirectory.from_config(migrations.config("primary")).get_current_head()

    def add(self, name: str, body: str | None = None, after: str | None = None) -> None:
        """Append a revision, or branch it off another one; without a body, use the one of the page."""
        body = find_snippet(f"revision: {name}").source if body is None else body
        identity = f"revision, down_revision = {name!r}, {after or self.head!r}\n"
        self.path(name).write_text(f"{body}\n\n{identity}")
        migrations._script.cache_clear()

    def operation(self, name: str, *lines: str, after: str | None = None) -> None:
        """Append a revision with these lines in `upgrade()`."""
        head = "import sqlalchemy as sa\nfrom alembic import op\n\ndef upgrade():"
        self.add(name, "\n    ".join([head, *lines]), after)

    def add_column(self, name: str, after: str | None = None) -> None:
        column = f"sa.Column({name!r}, sa.String(9))"
        self.operation(name, f"op.add_column('users', {column})", after=after)

    def squash(self, name: str) -> None:
        """Replace all revisions by one that creates the current tables."""
        tables = migrations.run("primary", reflect)
        self.replace({})
        body = f"from alembic import op\n\ndef upgrade():\n    for s in {tables!r}: op.execute(s)"
        self.path(name).write_text(f"{body}\n\nrevision, down_revision = {name!r}, None\n")

    def files(self) -> dict[Path, str]:
        return {path: path.read_text() for path in self.folder.glob("primary/*.py")}

    def replace(self, files: dict[Path, str]) -> None:
        """Replace all revisions by these."""
        for path in self.files():
            path.unlink()
        for path, text in files.items():
            path.write_text(text)
        migrations._script.cache_clear()

    def path(self, name: str) -> Path:
        return self.folder / "primary" / f"{name}.py"


@dataclass(frozen=True)
class Release:
    """The name columns that a release reads and writes, in sessions of the service."""

    reads: str
    writes: tuple[str, ...]

    async def create(self, name: str) -> UUID:
        user_id = uuid4()
        values = {"id": user_id, "email": new_email(), "version": 1, "created_at": utc_now()}
        async with session_scope() as session:
            await session.execute(sa.insert(USERS).values(values | self._names(name)))
        return user_id

    async def rename(self, user_id: UUID, name: str) -> None:
        statement = sa.update(USERS).where(USERS.c.id == user_id).values(self._names(name))
        async with session_scope() as session:
            await session.execute(statement)

    async def read(self, user_id: UUID) -> str | None:
        async with session_scope() as session:
            return await session.scalar(sa.select(USERS.c[self.reads]).where(USERS.c.id == user_id))

    def _names(self, name: str) -> dict[str, str]:
        return dict.fromkeys(self.writes, name)


BOTH = ("name", "full_name")
RELEASES = {
    1: Release("name", ("name",)),
    2: Release("name", BOTH),
    3: Release("full_name", BOTH),
    4: Release("full_name", ("full_name",)),
    5: Release("full_name", ("full_name",)),
}
REVISIONS = {
    2: ["expand"],
    3: ["add_check", "validate_check", "set_not_null"],
    4: ["drop_not_null"],
    5: ["contract"],
}


def reflect(connection: sa.Connection) -> list[str]:
    """Return the statements that create the current tables of a database."""
    metadata = sa.MetaData()
    metadata.reflect(connection)
    metadata.remove(metadata.tables["alembic_version"])
    statements: list[sa.schema.ExecutableDDLElement] = []
    for table in metadata.sorted_tables:
        indexes = sorted(table.indexes, key=lambda index: str(index.name))
        statements += [sa.schema.CreateTable(table), *map(sa.schema.CreateIndex, indexes)]
    return [str(statement.compile(connection)).strip() for statement in statements]


@asynccontextmanager
async def open_write_transaction() -> AsyncGenerator[None, None]:
    """Keep a transaction open that has written to the table of users."""
    async with session_scope() as session:
        await session.execute(sa.text("DELETE FROM users"))
        yield


@pytest.fixture
def history(databases: None, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[History]:
    """A history whose revisions of the service are applied; a test appends to it."""
    made = History(tmp_path)
    monkeypatch.setattr(migrations, "FOLDER", made.folder)
    migrations._script.cache_clear()
    yield made
    migrations._script.cache_clear()


async def upgrade() -> list[str]:
    """Migrate the primary database, as `python -m app migrate` does."""
    return await asyncio.to_thread(migrations.upgrade, "primary")


async def pending() -> list[str]:
    return await asyncio.to_thread(migrations.pending, "primary")


async def ship(history: History, release: int) -> None:
    for name in REVISIONS.get(release, []):
        history.add(name)
    await upgrade()


async def columns() -> set[str]:
    async with session_scope() as session:
        connection = await session.connection()
        found = await connection.run_sync(lambda sync: sa.inspect(sync).get_columns("users"))
    return {column["name"] for column in found}


async def work_together(*releases: Release) -> list[tuple[UUID, str]]:
    """Check that each release reads what each release writes; return the users and names."""
    names = []
    for creator in releases:
        for writer in releases:
            user_id = await creator.create("Ada")
            for reader in releases:
                assert await reader.read(user_id) == "Ada"
            await writer.rename(user_id, "Ada L.")
            for reader in releases:
                assert await reader.read(user_id) == "Ada L."
            names.append((user_id, "Ada L."))
    return names


async def test_each_release_works_beside_the_previous_one(history: History, load: Load) -> None:
    backfill = load("backfill").backfill
    users = await work_together(RELEASES[1])

    for number in (2, 3, 4, 5):
        await ship(history, number)
        users += await work_together(RELEASES[number - 1])  # before the rollout
        users += await work_together(RELEASES[number - 1], RELEASES[number])
        if number == 2:
            await backfill(size=3)
        for user_id, name in users:
            assert await RELEASES[number].read(user_id) == name

    assert "name" not in await columns()
    assert await pending() == []


@pytest.mark.parametrize(
    ("number", "error", "message"),
    [
        (3, IntegrityError, "full_name"),  # release 1 writes no full_name, which may not be NULL
        (4, AssertionError, "Ada L"),  # release 2 reads name, which release 4 does not write
        (5, DBAPIError, "name"),  # release 3 writes a column that is dropped
    ],
)
async def test_release_fails_beside_the_one_before_the_previous_one(
    history: History, number: int, error: type[Exception], message: str
) -> None:
    """No release can be left out."""
    for release in range(2, number + 1):
        await ship(history, release)

    with pytest.raises(error, match=message):
        await work_together(RELEASES[number - 2], RELEASES[number])


async def test_rename_in_one_step_breaks_the_running_service(
    history: History, client: AsyncClient
) -> None:
    ada = user_values()
    user = (await client.post("/users", json=ada)).json()
    history.add("rename")
    await upgrade()
    assert await fetch("SELECT full_name FROM users") == [("Ada",)]

    written = await client.post("/users", json=ada | {"email": new_email()})
    read = await client.get(f"/users/{user['id']}")

    assert (written.status_code, read.status_code) == (500, 500)


def test_function_of_release_2_only_adds_full_name(load: Load) -> None:
    both = load("release 2 writes both").both

    assert both({"name": "Ada", "email": "a"}) == {"name": "Ada", "email": "a", "full_name": "Ada"}
    assert both({"email": "a"}) == {"email": "a"}


async def test_stopped_backfill_continues(history: History, load: Load) -> None:
    snippet = load("backfill")
    users = [await RELEASES[1].create(f"Ada {number}") for number in range(7)]
    await ship(history, 2)
    rows: list[int] = []

    def count(_: Any, cursor: Any, statement: str, *others: object) -> None:
        if statement.startswith("UPDATE"):
            rows.append(cursor.rowcount)

    sa.event.listen(get_engine().sync_engine, "after_cursor_execute", count)
    await snippet.copy_chunk(UUID(int=0), 3)  # the process ends here
    await snippet.backfill(size=2)
    await snippet.backfill(size=2)

    assert rows == [3, 0, 1, 2, 1, 0, 0, 0, 0]
    for number, user_id in enumerate(users):
        assert await RELEASES[3].read(user_id) == f"Ada {number}"


@pytest.mark.postgresql
@pytest.mark.parametrize("number", [1, 2])
async def test_backfill_copies_concurrent_changes(
    history: History, load: Load, number: int
) -> None:
    backfill = load("backfill").backfill
    user_id = await RELEASES[1].create("old")
    await ship(history, 2)
    async with session_scope() as session:
        values = dict.fromkeys(RELEASES[number].writes, "new")
        await session.execute(sa.update(USERS).where(USERS.c.id == user_id).values(values))
        running = asyncio.create_task(backfill())
        await until_waiting("UPDATE users")
    await running

    assert await RELEASES[3].read(user_id) == "new"


@pytest.mark.postgresql
async def test_backfill_locks_rows_in_the_order_of_their_ids(history: History, load: Load) -> None:
    """A request that locks several rows does the same. The table has the rows in another order."""
    ids = [await RELEASES[1].create("Ada") for _ in range(6)]
    await ship(history, 2)
    async with session_scope() as session:
        for user_id in sorted(ids, reverse=True):  # an updated row moves to the end of the table
            row = sa.update(USERS).where(USERS.c.id == user_id)
            await session.execute(row.values(version=USERS.c.version + 1))
    await fetch("ANALYZE users")  # so that the planner prefers a sequential scan
    lock = sa.select(USERS.c.id).with_for_update()

    async with session_scope() as session:
        await session.execute(lock.where(USERS.c.id == min(ids)))
        running = asyncio.create_task(load("backfill").backfill())
        await until_waiting("UPDATE users")
        await session.execute(lock.order_by(USERS.c.id))
    await running

    assert await RELEASES[3].read(ids[0]) == "Ada"


@pytest.mark.sqlite
async def test_backfill_works_despite_a_concurrent_write_on_sqlite(
    history: History, load: Load
) -> None:
    user_id = await RELEASES[1].create("Ada")
    await ship(history, 2)

    def write(_: Any, __: Any, statement: str, *others: object) -> None:
        if statement.startswith("SELECT users.id"):
            with closing(sqlite3.connect(str(get_engine().url.database))) as other, other:
                other.execute("UPDATE users SET version = version + 1")

    sa.event.listen(get_engine().sync_engine, "after_cursor_execute", write)
    await load("backfill").backfill()

    assert await RELEASES[3].read(user_id) == "Ada"


async def test_one_update_of_all_rows_blocks_requests_and_the_backfill_does_not(
    history: History,
    client: AsyncClient,
    environment: pytest.MonkeyPatch,
    load: Load,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(sqlite, "BUSY_TIMEOUT", 0.1)
    configure(environment, lock_timeout=0.1)
    copy_chunk = load("backfill").copy_chunk
    ids = sorted([await RELEASES[1].create("Ada") for _ in range(3)])
    await ship(history, 2)
    change = {"name": "Grace", "version": 1}

    await copy_chunk(UUID(int=0), 2)
    between_chunks = await client.patch(f"/users/{ids[0]}", json=change)
    async with observer() as connection:
        await connection.execute(sa.text("BEGIN"))
        await connection.execute(sa.update(USERS).values(full_name=USERS.c.name))
        in_one_update = await client.patch(f"/users/{ids[1]}", json=change)
        await connection.execute(sa.text("ROLLBACK"))

    assert (between_chunks.status_code, in_one_update.status_code) == (200, 503)


async def test_null_fails_the_revision(
    history: History,
) -> None:
    await RELEASES[1].create("Ada")
    await ship(history, 2)
    for name in REVISIONS[3]:
        history.add(name)

    with pytest.raises(IntegrityError):
        await upgrade()

    by = {"postgresql": "validate_check", "sqlite": "set_not_null"}[get_engine().dialect.name]
    assert (await pending())[0] == by
    await work_together(RELEASES[2])


@pytest.mark.postgresql
async def test_lock_timeout_of_set_not_null_keeps_the_validation(
    history: History, environment: pytest.MonkeyPatch
) -> None:
    await ship(history, 2)
    configure(environment, lock_timeout=0.2)
    history.add("add_check")
    await upgrade()
    for name in REVISIONS[3][1:]:
        history.add(name)

    async with session_scope() as session:
        await session.execute(sa.text("SELECT FROM users"))
        with pytest.raises(DBAPIError, match="lock timeout"):
            await upgrade()

    is_valid = (
        "SELECT convalidated FROM pg_constraint WHERE conname = 'ck_users_full_name_not_null'"
    )
    assert await fetch(is_valid) == [(True,)]
    assert await upgrade() == ["set_not_null"]


@pytest.mark.postgresql
async def test_add_check_locks_the_table_and_validate_check_allows_writes(
    history: History,
) -> None:
    await ship(history, 2)
    held = "SELECT mode FROM pg_locks WHERE pid = pg_backend_pid() AND relation = 'users'::regclass"

    async with observer() as connection:

        def apply(sync: sa.Connection, name: str) -> None:
            namespace: dict[str, Any] = {}
            exec(find_snippet(f"revision: {name}").source, namespace)  # noqa: S102
            with Operations.context(MigrationContext.configure(sync)):
                namespace["upgrade"]()

        await connection.execute(sa.text("BEGIN"))
        await connection.run_sync(apply, "add_check")
        locks_of_add_check = set(await connection.scalars(sa.text(held)))
        await connection.execute(sa.text("COMMIT"))
        await connection.execute(sa.text("BEGIN"))
        await connection.run_sync(apply, "validate_check")
        locks_of_validate_check = set(await connection.scalars(sa.text(held)))
        await RELEASES[2].create("Ada")
        await connection.execute(sa.text("COMMIT"))

    assert locks_of_add_check == {"AccessExclusiveLock"}
    assert locks_of_validate_check == {"ShareUpdateExclusiveLock"}


@pytest.mark.postgresql
async def test_set_not_null_reads_no_row_if_a_check_is_validated(history: History) -> None:
    await ship(history, 2)
    for name in ("add_check", "validate_check"):
        history.add(name)
    await upgrade()
    notices: list[str] = []

    async with observer() as connection:
        driver: Any = (await connection.get_raw_connection()).driver_connection
        driver.add_log_listener(lambda _, message: notices.append(message.message))
        for statement in (
            "SET client_min_messages = debug1",
            "ALTER TABLE users ALTER full_name SET NOT NULL",
        ):
            await connection.execute(sa.text(statement))
        await until(lambda: any("sufficient to prove" in message for message in notices))

    assert [message for message in notices if message.startswith("verifying table")] == []


async def test_hidden_column_is_no_difference(
    history: History, monkeypatch: pytest.MonkeyPatch
) -> None:
    for number in (2, 3, 4):
        await ship(history, number)
    monkeypatch.setitem(METADATA, "primary", await tables_without_name())
    alembic = migrations.config("primary")

    with pytest.raises(CommandError, match=r"remove_column.*'name'"):
        await asyncio.to_thread(command.check, alembic)

    env = history.folder / "env.py"
    function = find_snippet("hide a column until it is dropped").source
    changed = env.read_text().replace("def migrate(", f"{function}\n\ndef migrate(")
    env.write_text(changed.replace("=connection,", "=connection, include_name=include_name,"))
    await asyncio.to_thread(command.check, alembic)


async def tables_without_name() -> sa.MetaData:
    """Return the tables of release 4: those of the database without one column."""
    metadata = sa.MetaData()
    others = await columns() - {"name"}

    def reflect(connection: sa.Connection) -> None:
        sa.Table("users", metadata, autoload_with=connection, include_columns=others)

    async with session_scope() as session:
        await (await session.connection()).run_sync(reflect)
    return metadata


async def test_required_column_needs_a_server_default(history: History) -> None:
    await RELEASES[1].create("Ada")
    column = "sa.Column('country', sa.String(2), nullable=False)"
    history.operation("wrong", f"op.add_column('users', {column})")
    with pytest.raises(DBAPIError):
        await upgrade()
    history.path("wrong").unlink()

    history.add("add_country")
    await upgrade()
    await RELEASES[1].create("Grace")  # the previous release does not write the column

    assert await fetch("SELECT country FROM users") == [("SE",), ("SE",)]
    with pytest.raises(IntegrityError, match="country"):
        await fetch("UPDATE users SET country = NULL")


async def test_column_is_filled_before_it_is_required(history: History) -> None:
    history.operation("add", "op.add_column('users', sa.Column('display_name', sa.String(200)))")
    await upgrade()
    await RELEASES[1].create("Ada")

    history.add("require_display_name")
    await upgrade()

    assert await fetch("SELECT display_name FROM users") == [("Ada",)]
    with pytest.raises(IntegrityError, match="display_name"):
        await fetch("UPDATE users SET display_name = NULL")


async def test_revision_of_a_model_fails_and_one_with_named_columns_works(history: History) -> None:
    """A model selects columns that later revisions add."""
    by_model = (
        "from sqlalchemy.orm import Session",
        "from app.models import User",
        "session = Session(op.get_bind())",
        "for user in session.scalars(sa.select(User)): user.name = user.name.strip()",
        "session.flush()",
    )
    async with session_scope() as session:
        session.add_all([new_user("Grace"), new_user(" Ada ")])
    history.operation(
        "back", "op.drop_column('users', 'version')"
    )  # the table before a later revision adds it
    history.operation("model", *by_model)

    with pytest.raises(DBAPIError, match="version"):
        await upgrade()
    history.path("model").unlink()
    history.add("data")
    await upgrade()

    assert await fetch("SELECT name FROM users ORDER BY name") == [("Ada",), ("Grace",)]


@pytest.mark.sqlite
async def test_batch_copy_has_no_sql_mode_and_loses_what_the_page_lists(
    history: History, capsys: pytest.CaptureFixture[str]
) -> None:
    of_key, of_n = "id INTEGER PRIMARY KEY AUTOINCREMENT", "n TEXT COLLATE NOCASE"
    create = f"CREATE TABLE t ({of_key}, {of_n}, CHECK (n > 0))"
    history.operation("make", f"op.execute('{create}')")
    copy = "with op.batch_alter_table('t') as t: t.alter_column('n', nullable=False)"
    history.operation("copy", copy)

    with pytest.raises(
        CommandError, match=r"^copy.py, line 5, has to read the database, or is wrong "
    ):
        await asyncio.to_thread(migrations.write_sql, "primary")
    assert not capsys.readouterr().out
    with pytest.warns(UserWarning, match="Unnamed CHECK constraint"):
        await upgrade()

    [(table,)] = await fetch("SELECT sql FROM sqlite_schema WHERE name = 't'")
    assert [word for word in ("CHECK", "COLLATE", "AUTOINCREMENT") if word in table] == []


COPY = "with op.batch_alter_table('users') as users: users.alter_column('name', nullable=False)"
LOWER_EMAIL = 'op.create_index("ix_users_lower_email", "users", [sa.text("lower(email)")])'
DROP_LOWER_EMAIL = 'op.drop_index("ix_users_lower_email")'
DROP_VIEW = 'op.execute("DROP VIEW user_names")'
VIEW = "op.execute('CREATE VIEW user_names AS SELECT name FROM users')"
DROP_CHECK = 'users.drop_constraint(op.f("ck_users_status"), type_="check")'


@pytest.mark.sqlite
@pytest.mark.filterwarnings("ignore:Skipped unsupported reflection of expression-based index")
async def test_batch_copy_keeps_indexes_on_expressions_and_triggers(history: History) -> None:
    trigger = "CREATE TRIGGER grow AFTER DELETE ON users BEGIN UPDATE users SET version = 9; END"
    copy = "with op.batch_alter_table('users') as users:"
    history.operation("index", LOWER_EMAIL, f"op.execute({trigger!r})")
    history.operation("copy", COPY)
    history.operation("others", f"{copy} users.drop_index('ix_users_created_at_id')")
    history.operation("again", f"{copy} users.drop_column('created_at')")
    names = "SELECT name FROM sqlite_schema WHERE type IN ('index', 'trigger') AND sql <> ''"

    await upgrade()
    assert {*await fetch(names)} == {("ix_users_lower_email",), ("grow",)}

    history.operation("wrong", f"{copy} users.drop_column('email')")
    with pytest.raises(OperationalError, match="no such column: email"):
        await upgrade()
    history.path("wrong").unlink()
    history.operation("right", DROP_LOWER_EMAIL, f"{copy} users.drop_column('email')")
    await upgrade()
    assert await fetch(names) == [("grow",)]
    assert f"`{DROP_LOWER_EMAIL}`" in PAGE.read_text()


@pytest.mark.sqlite
@pytest.mark.filterwarnings("ignore:Skipped unsupported reflection of expression-based index")
async def test_batch_copy_keeps_the_sql_of_indexes_and_creates_new_ones(history: History) -> None:
    order = "CREATE INDEX by_name ON users (name COLLATE NOCASE DESC, version)"
    batch = COPY.replace("'users'", "'Users'")
    history.operation("order", f"op.execute('{order}')", LOWER_EMAIL)
    history.operation(
        "copy", f"{batch}; users.create_index('lower_name', [sa.text('lower(name)')])", LOWER_EMAIL
    )

    await upgrade()

    indexes = {sql for (sql,) in await fetch("SELECT sql FROM sqlite_schema WHERE type = 'index'")}
    assert indexes > {
        order,
        "CREATE INDEX ix_users_lower_email ON users (lower(email))",
        'CREATE INDEX lower_name ON "Users" (lower(name))',
    }


@pytest.mark.sqlite
@pytest.mark.filterwarnings("ignore:Skipped unsupported reflection of expression-based index")
async def test_trigger_that_uses_a_renamed_column_fails_the_revision(history: History) -> None:
    update = "UPDATE users SET version = length(new.name) WHERE id = new.id"
    trigger = f"CREATE TRIGGER grow AFTER UPDATE ON users BEGIN {update}; END"
    history.operation("trigger", f"op.execute({trigger!r})")
    history.add("rename")

    with pytest.raises(OperationalError, match="error in trigger grow"):
        await upgrade()

    assert "name" in await columns()
    history.path("rename").unlink()
    history.operation("again", COPY, f"op.execute({trigger!r})")
    with pytest.raises(OperationalError, match="trigger grow already exists"):
        await upgrade()


@pytest.mark.sqlite
async def test_copy_from_keeps_what_the_revision_names(
    history: History, capsys: pytest.CaptureFixture[str]
) -> None:
    history.operation("make", "op.execute('CREATE TABLE t (n TEXT, m TEXT)')")
    history.operation("index", *(f"op.create_index('ix_{n}', 't', ['{n}'])" for n in "nm"))
    history.operation(
        "copy",
        "kept = sa.Table('t', sa.MetaData(), sa.Column('n', sa.Text), sa.Index('ix_n', 'n'))",
        "with op.batch_alter_table('t', copy_from=kept) as t:",
        "    t.alter_column('n', nullable=False)",
        "    t.drop_index('ix_n')",
    )

    await asyncio.to_thread(migrations.write_sql, "primary")
    await upgrade()

    assert "INSERT INTO _alembic_tmp_t (n) SELECT t.n" in capsys.readouterr().out
    assert await fetch("SELECT name FROM sqlite_schema WHERE tbl_name = 't'") == [("t",)]


async def test_view_is_dropped_before_a_batch_and_created_after_it(history: History) -> None:
    history.operation("view", VIEW)
    history.operation("right", DROP_VIEW, COPY, VIEW)
    assert await upgrade() == ["view", "right"]
    assert f"`{DROP_VIEW}`" in PAGE.read_text()


@pytest.mark.sqlite
async def test_batch_copy_of_a_table_with_a_view_fails(history: History) -> None:
    history.operation("view", VIEW)
    history.operation("wrong", COPY)
    with pytest.raises(OperationalError, match="error in view user_names"):
        await upgrade()


STATUS = 'sa.Enum("NEW", name="status", native_enum=False, create_constraint=True)'


def add_status(history: History, *downgrade: str) -> None:
    batch = "with op.batch_alter_table('users') as users:"
    column = f"{batch} users.add_column(sa.Column('status', {STATUS}))"
    history.operation("status", column, f"\ndef downgrade():\n    {batch}", *downgrade)


async def test_downgrade_drops_the_check_of_an_enum(history: History) -> None:
    add_status(history, f"    {DROP_CHECK}", "    users.drop_column('status')")
    await upgrade()

    await asyncio.to_thread(command.downgrade, migrations.config("primary"), "-1")

    assert await upgrade() == ["status"]
    assert f"`{STATUS}`" in PAGE.read_text()
    assert f"`{DROP_CHECK}`" in PAGE.read_text()


@pytest.mark.sqlite
async def test_downgrade_that_keeps_the_check_of_an_enum_fails(history: History) -> None:
    add_status(history, "    users.drop_column('status')")
    await upgrade()

    with pytest.raises(OperationalError, match="no such column: status"):
        await asyncio.to_thread(command.downgrade, migrations.config("primary"), "-1")


@pytest.mark.postgresql
async def test_lock_timeout_ends_a_migration_and_unblocks_readers(
    history: History,
) -> None:
    history.operation(
        "short_lock_timeout",
        "op.execute(\"SET LOCAL lock_timeout = '500ms'\")",
        "op.add_column('users', sa.Column('full_name', sa.String(200)))",
    )

    async def read() -> None:
        async with session_scope() as session:
            await session.execute(sa.text("SET LOCAL lock_timeout = 0"))
            await session.execute(sa.text("SELECT FROM users"))

    async with session_scope() as session:
        await session.execute(sa.text("SELECT FROM users"))
        migration = asyncio.create_task(upgrade())
        await until_waiting("ALTER TABLE users")
        reader = asyncio.create_task(read())
        await until_waiting("SELECT FROM users")

        with pytest.raises(DBAPIError, match="lock timeout"):
            await migration
        await reader

        assert await pending() == ["short_lock_timeout"]
    assert await upgrade() == ["short_lock_timeout"]


@pytest.mark.postgresql
async def test_index_build_allows_writes_and_keeps_the_migration_lock(
    history: History, environment: pytest.MonkeyPatch
) -> None:
    history.add("index")
    tries: list[str] = []

    def record(_: Any, __: Any, statement: str, *others: object) -> None:
        if "advisory_lock" in statement:
            tries.append(statement)

    async with open_write_transaction():
        migration = asyncio.create_task(upgrade())
        await until_waiting("CREATE INDEX CONCURRENTLY")
        await RELEASES[1].create("Ada")
        configure(environment, migration_lock_timeout=0)
        with pytest.raises(CommandError, match="another process has been changing"):
            await upgrade()
        configure(environment, migration_lock_timeout=60)
        sa.event.listen(sa.Engine, "after_cursor_execute", record)
        second = asyncio.create_task(upgrade())
        await until(lambda: len(tries) > 1)
        sa.event.remove(sa.Engine, "after_cursor_execute", record)

    assert await migration == ["index"]
    assert await second == []
    assert await fetch(INDEX) == [(True,)]


@pytest.mark.postgresql
async def test_failed_index_is_invalid_and_the_revision_works_on_retry(
    history: History, environment: pytest.MonkeyPatch
) -> None:
    configure(environment, lock_timeout=0.2)
    history.add("index")

    async with open_write_transaction():
        with pytest.raises(DBAPIError, match="lock timeout"):
            await upgrade()

    assert await fetch(INDEX) == [(False,)]
    assert await pending() == ["index"]
    configure(environment, lock_timeout=10)
    assert await upgrade() == ["index"]
    assert await fetch(INDEX) == [(True,)]


@pytest.mark.postgresql
async def test_longer_lock_timeout_of_a_block_is_reset(
    history: History, environment: pytest.MonkeyPatch
) -> None:
    configure(environment, lock_timeout=0.2)
    block = "with op.get_context().autocommit_block():"
    source = find_snippet("revision: index").source.replace(
        block, f"{block}\n        op.execute(\"SET lock_timeout = '10min'\")"
    )
    history.add("index", f'{source}        op.execute("RESET lock_timeout")\n')
    limit = "op.get_bind().scalar(sa.text('SHOW lock_timeout'))"
    history.operation("next", f"assert {limit} == '200ms', {limit}")
    waits = (
        "SELECT 1 FROM pg_stat_activity WHERE query LIKE 'CREATE INDEX CONCURRENTLY%' "
        "AND datname = current_database() AND now() - query_start > interval '0.4 seconds'"
    )

    async def waits_longer_than_the_setting() -> bool:
        return bool(await fetch(waits))

    async with open_write_transaction():
        migration = asyncio.create_task(upgrade())
        await until(waits_longer_than_the_setting)

    assert await migration == ["index", "next"]
    assert await fetch(INDEX) == [(True,)]


@pytest.mark.postgresql
async def test_if_not_exists_accepts_an_invalid_index(
    history: History, environment: pytest.MonkeyPatch
) -> None:
    configure(environment, lock_timeout=0.2)
    create = "op.execute('CREATE INDEX CONCURRENTLY IF NOT EXISTS ix_users_name ON users (name)')"
    history.operation("index", f"with op.get_context().autocommit_block(): {create}")

    async with open_write_transaction():
        with pytest.raises(DBAPIError, match="lock timeout"):
            await upgrade()

    configure(environment, lock_timeout=10)
    assert await upgrade() == ["index"]
    assert await fetch(INDEX) == [(False,)]


async def test_index_revision_works_on_both_databases(history: History) -> None:
    history.add("index")

    assert await upgrade() == ["index"]
    async with session_scope() as session:
        connection = await session.connection()
        found = await connection.run_sync(lambda sync: sa.inspect(sync).get_indexes("users"))
    assert "ix_users_name" in {index["name"] for index in found}


async def test_failed_autocommit_block_keeps_earlier_changes(history: History) -> None:
    history.operation(
        "half",
        "op.add_column('users', sa.Column('full_name', sa.String(200)))",
        "with op.get_context().autocommit_block(): op.execute('nonsense')",
    )

    with pytest.raises(DBAPIError, match="nonsense"):
        await upgrade()

    assert "full_name" in await columns()
    assert await pending() == ["half"]


async def test_older_release_is_ready_on_a_newer_database(
    history: History, client: AsyncClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    await ship(history, 2)
    monkeypatch.setattr(migrations, "FOLDER", SHIPPED)
    migrations._script.cache_clear()

    assert await pending() == []
    assert await upgrade() == []
    assert (await client.get("/health/ready")).status_code == 200
    ada = await client.post("/users", json=user_values())
    assert ada.status_code == 201


def long_history(history: History) -> None:
    for name in ("first", "second"):
        history.add_column(name)


async def test_squash_with_the_id_of_the_head_needs_no_other_step(
    history: History, environment: pytest.MonkeyPatch, new_database: str
) -> None:
    long_history(history)
    await upgrade()
    whole = history.files()
    made_by_history = await asyncio.to_thread(migrations.run, "primary", reflect)
    await asyncio.to_thread(history.squash, "second")

    assert await pending() == []
    assert await upgrade() == []
    history.add_column("third")
    assert await pending() == ["third"]
    assert await upgrade() == ["third"]

    history.path("third").unlink()
    migrations._script.cache_clear()
    configure(environment, database_url=new_database)
    assert await upgrade() == ["second"]
    made_by_squash = await asyncio.to_thread(migrations.run, "primary", reflect)
    assert made_by_squash == made_by_history

    history.replace(whole)  # the previous release
    assert await pending() == []
    assert await upgrade() == []


async def test_autogenerate_writes_the_squashed_revision(
    history: History, environment: pytest.MonkeyPatch, new_database: str
) -> None:
    history.add("expand")
    history.operation("back", "op.drop_column('users', 'full_name')")
    await upgrade()
    history.replace({})
    old_database = os.environ[variable("primary")]

    configure(environment, database_url=new_database)
    alembic = migrations.config("primary")
    await asyncio.to_thread(
        command.revision, alembic, "create tables", autogenerate=True, rev_id="back"
    )
    migrations._script.cache_clear()
    assert await upgrade() == ["back"]
    await asyncio.to_thread(command.check, alembic)

    configure(environment, database_url=old_database)
    assert await pending() == []
    await asyncio.to_thread(command.check, alembic)


async def test_squash_hides_missing_revisions_of_a_database_behind_the_head(
    history: History, client: AsyncClient
) -> None:
    long_history(history)
    whole = history.files()
    history.path("second").unlink()
    migrations._script.cache_clear()
    assert await upgrade() == ["first"]
    history.replace(whole)
    await asyncio.to_thread(history.squash, "second")
    history.add_column("third")

    assert await pending() == []
    assert (await client.get("/health/ready")).status_code == 200
    assert await upgrade() == []
    assert {"second", "third"} & await columns() == set()

    history.replace(whole)  # the previous release
    assert await upgrade() == ["second"]
    await asyncio.to_thread(history.squash, "second")
    history.add_column("third")
    assert await upgrade() == ["third"]


async def test_squash_with_a_new_id_needs_a_stamp(history: History) -> None:
    long_history(history)
    await upgrade()
    await asyncio.to_thread(history.squash, "squashed")
    history.add_column("third")
    alembic = migrations.config("primary")

    assert await pending() == []
    assert await upgrade() == []
    assert "third" not in await columns()
    with pytest.raises(CommandError, match="Can't locate revision identified by 'second'"):
        await asyncio.to_thread(command.stamp, alembic, "squashed")

    await asyncio.to_thread(command.stamp, alembic, "squashed", purge=True)
    assert await pending() == ["third"]
    assert await upgrade() == ["third"]


@pytest.mark.parametrize("branch", ["left", "right"])
async def test_merge_works_on_a_database_with_either_head(history: History, branch: str) -> None:
    base = history.head
    [other] = {"left", "right"} - {branch}
    history.add_column(branch)
    await upgrade()
    history.add_column(other, after=base)
    command.merge(migrations.config("primary"), "heads", message="merge")
    migrations._script.cache_clear()

    await upgrade()

    assert {"left", "right"} < await columns()
    assert await pending() == []


async def test_two_heads_fail_on_an_empty_database(
    history: History, environment: pytest.MonkeyPatch, new_database: str
) -> None:
    base = history.head
    history.add_column("left")
    history.add_column("right", after=base)
    configure(environment, database_url=new_database)

    with pytest.raises(CommandError, match="2 heads, left and right: join"):
        await upgrade()


def test_head_of_another_branch_is_pending(history: History) -> None:
    shipped = history.head
    history.add_column("ours")
    migrations.upgrade("primary")
    history.add_column("theirs", after=shipped)
    assert migrations.pending("primary") == ["theirs"]

    merge = "def upgrade(): ...\n\nrevision, down_revision = 'merge', ('ours', 'theirs')\n"
    history.path("merge").write_text(merge)
    migrations._script.cache_clear()

    assert migrations.upgrade("primary") == ["theirs", "merge"]
    assert migrations.pending("primary") == []
