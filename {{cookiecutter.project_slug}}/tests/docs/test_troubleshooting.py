"""Every message of docs/troubleshooting.md is provoked here or by a snippet of the page, and its fix works."""

import asyncio
import inspect
import os
import re
import subprocess
import sys
from collections.abc import AsyncGenerator, Callable, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Any, NamedTuple, TypeVar

import pytest
from alembic import command
from alembic.config import Config
from alembic.util import CommandError
from fastapi import Depends, FastAPI
from fastapi.exceptions import DependencyScopeError
from httpx2 import AsyncClient
from sqlalchemy import ForeignKey, make_url, select, text
from sqlalchemy.exc import (
    DBAPIError,
    InterfaceError,
    InvalidRequestError,
    NoSuchModuleError,
    NotSupportedError,
    OperationalError,
    ProgrammingError,
    SQLAlchemyError,
    StatementError,
)
from sqlalchemy.exc import TimeoutError as PoolTimeoutError
from sqlalchemy.ext.asyncio import AsyncEngine, AsyncSession, create_async_engine
from sqlalchemy.orm import (
    Mapped,
    mapped_column,
    relationship,
    selectinload,
)
from sqlalchemy.orm.exc import DetachedInstanceError, StaleDataError

from app import migrations
from app.core.config import get_database, variable
from app.core.db import TransactionFailedError, dispose_engines, get_engine, session_scope
from app.core.web.problem_details import problem_of
from app.dependencies import SessionDep
from app.models import User, base
from tests.conformance.harness.fragile import fragile
from tests.conformance.harness.pgbouncer import pgbouncer_before
from tests.docs.conftest import Load
from tests.docs.snippets import ROOT
from tests.docs.test_pages import anchors
from tests.harness.connections import connect
from tests.harness.postgresql import Server
from tests.inspection import fetch, pid, stored_users, until_active
from tests.support import (
    configure,
    create_tables,
    new_user,
    relate_without_lazy,
    set_databases,
    until,
)

PAGE = ROOT / "docs" / "troubleshooting.md"

Test = TypeVar("Test", bound=Callable[..., Any])

PASSWORD = "secret"

PROVOKED: dict[str, tuple[str, ...]] = {}  # by the name of the test that provokes them


class Section(NamedTuple):
    anchor: str
    messages: list[str]  # of its heading, and of the paragraph below that begins with "Also"
    text: str


def sections() -> list[Section]:
    found = []
    for part in re.split(r"^### ", PAGE.read_text(), flags=re.MULTILINE)[1:]:
        heading, _, rest = part.partition("\n")
        also = re.match(r"\nAlso .+?\n\n", rest, re.DOTALL)
        messages = re.findall("`([^`]+)`", heading + (also.group() if also else ""))
        anchor = re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-")
        found.append(Section(anchor, [" ".join(m.split()) for m in messages], rest))
    return found


def pattern(message: str) -> str:
    """Return what an error must match to say this; numbers differ."""
    return re.sub(r"\d+", r"\\d+", re.escape(message))


def provokes(*messages: str) -> Callable[[Test], Test]:
    """Say which messages of the page a test provokes; it gets them as `messages`."""

    def remember(test: Test) -> Test:
        assert "messages" in inspect.signature(test).parameters
        PROVOKED[test.__name__] = messages
        return test

    return remember


@pytest.fixture
def messages(request: pytest.FixtureRequest) -> list[str]:
    """The messages that the test provokes, as patterns."""
    return [pattern(message) for message in PROVOKED[request.function.__name__]]


def test_table_has_every_message_in_the_order_of_the_sections() -> None:
    rows = re.findall(r"^\| \[`([^`]+)`\]\(#(.+?)\) \| .+ \|$", PAGE.read_text(), re.MULTILINE)

    assert rows == [(m, section.anchor) for section in sections() for m in section.messages]
    assert {anchor for _, anchor in rows} <= anchors(PAGE)
    assert not [a for _, a in rows if "--" in a or a.strip("-") != a]  # GitLab makes others


def test_every_message_is_provoked_by_a_test_or_by_the_snippet_of_its_section() -> None:
    provoked = {message for messages in PROVOKED.values() for message in messages}
    of_page = set()
    for section in sections():
        assert section.messages, section.anchor
        printed = "\n".join(re.findall(r"^ *# > (.*)$", section.text, re.MULTILINE))
        for message in section.messages:
            of_page.add(message)
            assert message in provoked or re.search(pattern(message), printed), message

    assert provoked <= of_page


# Parts


@asynccontextmanager
async def plain_engine(url: Any = None, **options: Any) -> AsyncGenerator[AsyncEngine, None]:
    """An engine as SQLAlchemy makes it, for the primary database or another URL."""
    engine = create_async_engine(url or get_engine().url, **options)
    try:
        yield engine
    finally:
        await engine.dispose()


def run(*arguments: str, folder: Path) -> subprocess.CompletedProcess[str]:
    """Run Python, which knows the databases of the test, in a folder without a .env."""
    return subprocess.run(
        [sys.executable, *arguments],
        capture_output=True,
        check=False,
        cwd=folder,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        text=True,
        timeout=60,
    )


def of_backend(messages: Sequence[str]) -> str:
    """Return the first message on PostgreSQL, the second one on SQLite."""
    postgresql, sqlite = messages
    return sqlite if get_engine().name == "sqlite" else postgresql


async def stored_user() -> User:
    async with session_scope() as session:
        user = new_user()
        session.add(user)
    return user


# Sessions and asyncio


@provokes("greenlet_spawn has not been called")
@pytest.mark.filterwarnings("ignore:coroutine 'Connection.cursor' was never awaited")
async def test_attribute_that_has_expired(databases: None, messages: list[str]) -> None:
    [message] = messages
    async with session_scope() as session:
        user = new_user()
        session.add(user)
        await session.flush()
        session.expire(user)

        with pytest.raises(SQLAlchemyError, match=message) as error:
            user.name  # noqa: B018
        await session.refresh(user)

        assert "MissingGreenlet" in f"{type(error.value)} {error.value}"
        assert user.name == "Ada"


@provokes("is not bound to a Session; attribute refresh operation cannot proceed")
async def test_attribute_that_was_not_loaded_when_its_session_ended(
    databases: None, messages: list[str]
) -> None:
    [message] = messages
    user_id = (await stored_user()).id
    async with session_scope() as session:
        lost = await session.get_one(User, user_id)
        await session.rollback()
    async with session_scope() as session:
        loaded = await session.get_one(User, user_id)
        await session.rollback()
        await session.refresh(loaded)

    with pytest.raises(DetachedInstanceError, match=message):
        lost.name  # noqa: B018
    assert loaded.name == "Ada"


@provokes("is not available due to lazy='raise'")
@pytest.mark.usefixtures("surroundings")
async def test_relationship_that_was_not_asked_for(messages: list[str]) -> None:
    class Page(base.PrimaryBase):
        __tablename__ = "pages"
        id: Mapped[int] = mapped_column(primary_key=True)
        lines: Mapped[list[Any]] = relationship("Line", lazy="raise")

    class Line(base.PrimaryBase):
        __tablename__ = "lines"
        id: Mapped[int] = mapped_column(primary_key=True)
        page_id: Mapped[int] = mapped_column(ForeignKey("pages.id"))

    [message] = messages
    await create_tables(base.PrimaryBase)
    async with session_scope() as session:
        session.add(Page(lines=[Line(), Line()]))

    async with session_scope() as session:
        page = (await session.scalars(select(Page))).one()
        with pytest.raises(InvalidRequestError, match=message):
            page.lines  # noqa: B018
    async with session_scope() as session:
        page = (await session.scalars(select(Page).options(selectinload(Page.lines)))).one()
    assert len(page.lines) == 2


@provokes(
    'would be loaded when touched, which raises MissingGreenlet: write relationship(lazy="raise")'
)
def test_relationship_that_loads_itself(messages: list[str]) -> None:
    [message] = messages
    with pytest.raises(TypeError, match=message):
        relate_without_lazy()


@pytest.mark.postgresql
@provokes("cannot perform operation: another operation is in progress")
async def test_commit_while_a_task_uses_the_session(databases: None, messages: list[str]) -> None:
    [message] = messages

    async def sleep(session: AsyncSession, seconds: float) -> None:
        await session.execute(text("SELECT pg_sleep(:seconds)"), {"seconds": seconds})

    with pytest.raises(InterfaceError, match=message):
        async with session_scope() as session:
            number = await pid(session)
            forgotten = asyncio.create_task(sleep(session, 60))
            await until_active(number)
    await asyncio.wait([forgotten])
    assert forgotten.exception()

    async with session_scope() as session, asyncio.TaskGroup() as tasks:
        tasks.create_task(sleep(session, 0.01))


LOOPS = """
import asyncio
from sqlalchemy import text
from sqlalchemy.ext.asyncio import create_async_engine
from app.core.db import get_engine

async def read(engine):
    async with engine.connect() as connection:
        await connection.execute(text("SELECT 1"))

one, other = (create_async_engine(get_engine().url) for _ in range(2))
for engine in (one, other):
    asyncio.run(read(engine))
try:
    asyncio.run(read(one))
except RuntimeError as error:
    print(error)
asyncio.run(other.dispose())
"""


@pytest.mark.postgresql
@provokes(
    "got Future <Future pending cb=[BaseProtocol._on_waiter_completed()]> attached to a different loop",
    "Event loop is closed",
)
def test_engine_of_another_loop(databases: None, messages: list[str], tmp_path: Path) -> None:
    of_another_loop, closed = messages
    ended = run("-c", LOOPS, folder=tmp_path)

    assert re.search(of_another_loop, ended.stdout), ended
    assert re.search(f"RuntimeError: {closed}", ended.stderr), ended


def test_sessions_of_one_loop_after_another(databases: None) -> None:
    assert asyncio.run(stored_user()) is not asyncio.run(stored_user())
    assert asyncio.run(stored_users()) == 2


@provokes("the session has ended before this task could use it")
async def test_session_that_ends_while_a_task_waits_for_its_connection(
    single: None, messages: list[str]
) -> None:
    [message] = messages

    async def read(session: AsyncSession) -> int:
        return await session.scalar(select(1)) or 0

    async def read_in_a_session_of_its_own() -> int:
        async with session_scope() as session:
            return await read(session)

    async with session_scope() as holder:
        await read(holder)
        with pytest.raises(InvalidRequestError):
            async with session_scope() as session:
                waiting = asyncio.create_task(read(session))
                await until(lambda: get_engine().pool.waiting == 1)  # type: ignore[attr-defined]
    with pytest.raises(InvalidRequestError, match=message):
        await waiting

    assert await asyncio.create_task(read_in_a_session_of_its_own()) == 1


@provokes('has a scope of "request", it cannot depend on dependencies with scope "function"')
async def test_dependency_on_a_session(
    app: FastAPI, client: AsyncClient, messages: list[str]
) -> None:
    [message] = messages

    async def user(session: SessionDep) -> AsyncGenerator[User, None]:
        found = new_user()
        session.add(found)
        yield found

    async def returned_user(session: SessionDep) -> User:
        return new_user()

    def with_user(dependency: Any) -> Callable[..., Any]:
        async def route(user: Annotated[Any, dependency]) -> str:
            return str(user.name)

        return route

    with pytest.raises(DependencyScopeError, match=message):
        app.get("/wrong")(with_user(Depends(user)))
    app.get("/right")(with_user(Depends(user, scope="function")))
    app.get("/returned")(with_user(Depends(returned_user)))

    for path in ("/right", "/returned"):
        assert (await client.get(path)).json() == "Ada"
    assert await stored_users() == 1


@pytest.mark.postgresql
@provokes(
    "current transaction is aborted, commands ignored until end of transaction block",
    "a statement failed, its error was swallowed, and the database has given up what the "
    "transaction wrote",
)
async def test_error_of_a_statement_that_is_swallowed(databases: None, messages: list[str]) -> None:
    aborted, failed = messages

    async def divide(session: AsyncSession) -> None:
        with pytest.raises(DBAPIError):
            await session.execute(text("SELECT 1 / 0"))

    async def divide_in_a_savepoint(session: AsyncSession) -> None:
        with pytest.raises(DBAPIError):
            async with session.begin_nested():
                await session.execute(text("SELECT 1 / 0"))

    with pytest.raises(TransactionFailedError, match=failed):
        async with session_scope() as session:
            await divide(session)
            with pytest.raises(DBAPIError, match=aborted):
                await session.execute(text("SELECT 1"))
    async with session_scope() as session:
        session.add(new_user())
        await divide_in_a_savepoint(session)

    assert await stored_users() == 1


@pytest.mark.postgresql
@provokes(
    "can't subtract offset-naive and offset-aware datetimes",
    "invalid input for query argument $1",
)
async def test_time_with_a_zone_where_the_database_has_none(
    databases: None, messages: list[str]
) -> None:
    by_asyncpg, by_service = messages
    statement = text("SELECT CAST(:time AS timestamp)")
    with_zone = text("SELECT CAST(:time AS timestamptz)")
    time = datetime.now(UTC)

    async with plain_engine() as engine, engine.connect() as connection:
        with pytest.raises(DBAPIError, match=by_asyncpg):
            await connection.execute(statement, {"time": time})
    with pytest.raises(DBAPIError, match=by_service) as error:
        async with session_scope() as session:
            await session.execute(statement, {"time": time})
    assert not re.search(by_asyncpg, str(error.value))

    async with session_scope() as session:
        local = time.astimezone().replace(tzinfo=None)
        for value in (time, local):
            assert await session.scalar(with_zone, {"time": value}) == time


@provokes("has no time zone: use datetime.now(UTC)")
async def test_time_without_a_zone(databases: None, messages: list[str]) -> None:
    [message] = messages

    async def add(time: datetime) -> None:
        async with session_scope() as session:
            session.add(User(name="Ada", email="ada@example.com", created_at=time))

    with pytest.raises(StatementError, match=message):
        await add(datetime.now())  # noqa: DTZ005
    await add(datetime.now(UTC))

    assert await stored_users() == 1


@provokes("expected to update 1 row(s); 0 were matched")
async def test_row_that_somebody_else_has_changed(databases: None, messages: list[str]) -> None:
    [message] = messages
    read = await stored_user()
    user_id = read.id
    async with session_scope() as session:
        (await session.get_one(User, user_id)).name = "Grace"

    with pytest.raises(StaleDataError, match=message) as error:
        async with session_scope() as session:
            session.add(read)
            read.name = "Eve"
    assert problem_of(error.value).status == 409

    async with session_scope() as session:
        newest = await session.get_one(User, user_id)
        assert newest.name == "Grace"
        newest.name = "Eve"
    assert await fetch("SELECT name FROM users") == [("Eve",)]


# Connections


@provokes("QueuePool limit of size 20 overflow 0 reached, connection timed out, timeout 5.00")
async def test_session_that_is_held_while_something_else_is_awaited(
    single: None, load: Load, messages: list[str]
) -> None:
    [message] = messages
    snippet = load("a call between two sessions")
    user = await stored_user()

    async def somebody_reads() -> str:
        assert await stored_users_of_the_service() == 1
        return "Grace"

    with pytest.raises(PoolTimeoutError, match=message) as error:
        await snippet.hold(user.id, somebody_reads)
    assert problem_of(error.value).status == 503
    async with (
        plain_engine(pool_size=1, max_overflow=0, pool_timeout=0.1) as engine,
        engine.connect(),
    ):
        with pytest.raises(PoolTimeoutError, match=message):
            await engine.connect()

    await snippet.let_go(user.id, somebody_reads)
    assert await fetch("SELECT name FROM users") == [("Grace",)]


async def test_change_during_a_call_is_not_overwritten(load: Load) -> None:
    user = await stored_user()

    async def somebody_writes() -> str:
        async with session_scope() as session:
            (await session.get_one(User, user.id)).name = "Eve"
        return "Grace"

    with pytest.raises(StaleDataError) as error:
        await load("a call between two sessions").let_go(user.id, somebody_writes)

    assert problem_of(error.value).status == 409
    assert await fetch("SELECT name FROM users") == [("Eve",)]


async def stored_users_of_the_service() -> int:
    async with session_scope() as session:
        return len((await session.scalars(select(User.id))).all())


@pytest.mark.postgresql
@provokes("sorry, too many clients already", "remaining connection slots are reserved for")
async def test_server_that_has_no_connection_left(
    environment: pytest.MonkeyPatch, messages: list[str]
) -> None:
    none_left, reserved = messages

    async def use(number: int) -> None:
        """Use this many sessions at the same time, as far as the pool has connections for them."""

        async def use_one() -> None:
            async with session_scope() as session:
                await session.execute(text("SELECT 1"))
                entered.add(session)
                await until(lambda: len(entered) >= min(number, get_database().pool_size))

        entered = set[AsyncSession]()
        await asyncio.gather(*(use_one() for _ in range(number)))

    with fragile() as server:
        superuser = make_url(server.url)
        connection = await connect(superuser)
        await connection.execute("ALTER SYSTEM SET max_connections = 6")  # three are reserved
        await connection.close()
        server.crash()
        connection = await connect(superuser)
        await connection.execute(f"CREATE ROLE somebody LOGIN PASSWORD '{PASSWORD}'")
        await connection.close()
        somebody = superuser.set(username="somebody", password=PASSWORD)
        set_databases(environment, {"primary": somebody.render_as_string(hide_password=False)})

        async with AsyncExitStack() as stack:
            for _ in range(3):
                session = await stack.enter_async_context(session_scope())
                await session.execute(text("SELECT 1"))
            with pytest.raises(OperationalError, match=reserved) as error:
                await use(1)
            assert problem_of(error.value).status == 503
            as_superuser = plain_engine(superuser.set(drivername="postgresql+asyncpg"))
            engine = await stack.enter_async_context(as_superuser)
            for _ in range(3):
                await stack.enter_async_context(engine.connect())
            with pytest.raises(DBAPIError, match=none_left):
                await engine.connect()
        await dispose_engines()

        configure(environment, pool_size=2)
        connection = await connect(superuser)
        others = (
            "SELECT count(*) FROM pg_stat_activity "
            "WHERE backend_type = 'client backend' AND pid <> pg_backend_pid()"
        )

        async def are_closed() -> bool:
            return bool(await connection.fetchval(others) == 0)

        await until(are_closed)
        await connection.close()
        await use(9)
        await dispose_engines()


@provokes("connect() got an unexpected keyword argument 'sslmode'")
async def test_parameters_of_libpq(environment: pytest.MonkeyPatch, messages: list[str]) -> None:
    [message] = messages
    url = make_url("postgresql://u:p@127.0.0.1:1/d?sslmode=disable")

    async with plain_engine(url.set(drivername="postgresql+asyncpg")) as engine:
        with pytest.raises(TypeError, match=message):
            await engine.connect()

    set_databases(environment, {"primary": url.render_as_string(hide_password=False)})
    with pytest.raises(OperationalError):  # it has tried to connect, and nobody listens
        async with session_scope() as session:
            await session.execute(text("SELECT 1"))
    await dispose_engines()


@provokes(
    "Can't load plugin: sqlalchemy.dialects:postgres",
    "The asyncio extension requires an async driver to be used",
)
async def test_urls_without_an_async_driver(
    environment: pytest.MonkeyPatch, messages: list[str]
) -> None:
    unknown, not_async = messages
    urls = {"a": "postgres://u:p@h/d", "b": "sqlite:///x.db"}

    with pytest.raises(NoSuchModuleError, match=unknown):
        create_async_engine(urls["a"])
    with pytest.raises(InvalidRequestError, match=not_async):
        create_async_engine(urls["b"])

    set_databases(environment, urls)
    assert [get_engine(name).driver for name in urls] == ["asyncpg", "aiosqlite"]
    await dispose_engines()


WORKER = """
import asyncio, sys
from sqlalchemy import text
from sqlalchemy.ext.asyncio import create_async_engine
from app.core.db import get_engine

async def work():
    engine = create_async_engine(get_engine().url) if "plain" in sys.argv else get_engine()
    async with engine.connect() as connection:
        print(await connection.scalar(text("SELECT 1")))

asyncio.run(work())
"""


@pytest.mark.pgbouncer
@provokes('prepared statement "__asyncpg_stmt_1__" already exists', "unsupported startup parameter")
async def test_pgbouncer_that_the_service_does_not_know_of(
    databases: None,
    environment: pytest.MonkeyPatch,
    messages: list[str],
    postgresql: Server,
    tmp_path: Path,
) -> None:
    exists, unsupported = messages
    database = make_url(os.environ[variable("primary")]).database or ""
    with pgbouncer_before(postgresql, default_pool_size=1) as own:
        set_databases(environment, {"primary": own.url(database)})

        first, second = (run("-c", WORKER, "plain", folder=tmp_path) for _ in range(2))
        assert first.returncode == 0, first.stderr
        assert re.search(exists, second.stderr), second.stderr
        configure(environment, pgbouncer=False)
        with pytest.raises(OperationalError, match=unsupported):
            async with session_scope() as session:
                await session.execute(text("SELECT 1"))
        await dispose_engines()

        configure(environment, pgbouncer=True)
        assert [run("-c", WORKER, folder=tmp_path).stdout for _ in range(2)] == ["1\n"] * 2


@pytest.mark.postgresql
@provokes("canceling statement due to statement timeout", "canceling statement due to lock timeout")
async def test_statement_that_takes_too_long(
    databases: None, environment: pytest.MonkeyPatch, messages: list[str]
) -> None:
    too_slow, too_late = messages
    await stored_user()
    await dispose_engines()
    configure(environment, statement_timeout=0.5, lock_timeout=0.2)

    with pytest.raises(DBAPIError, match=too_slow) as error:
        async with session_scope() as session:
            await session.execute(text("SELECT pg_sleep(60)"))
    assert problem_of(error.value).status == 503
    with pytest.raises(DBAPIError, match=too_late) as error:
        async with session_scope() as one, session_scope() as other:
            for session in (one, other):
                await session.execute(select(User).with_for_update())
    assert problem_of(error.value).status == 503

    async with session_scope() as session:
        await session.execute(text("SET LOCAL statement_timeout = '10s'"))
        await session.execute(text("SELECT pg_sleep(0.7)"))
    async with session_scope() as session:
        assert await session.scalar(text("SHOW statement_timeout")) == "500ms"


@pytest.mark.sqlite
@provokes("database is locked")
async def test_two_who_write_to_a_file(
    databases: None, environment: pytest.MonkeyPatch, messages: list[str]
) -> None:
    [message] = messages
    environment.setattr("app.core.database.sqlite.BUSY_TIMEOUT", 0.1)

    with pytest.raises(OperationalError, match=message):  # after the timeout
        async with session_scope() as one, session_scope() as other:
            for session in (one, other):
                session.add(new_user())
                await session.flush()
    with pytest.raises(OperationalError, match=message) as error:  # at once: what was read is old
        async with session_scope() as session:
            await session.scalars(select(User))
            await stored_user()
            session.add(new_user())
    assert problem_of(error.value).status == 503

    async with session_scope() as session:
        session.add(new_user())
    await stored_user()
    assert await stored_users() == 3


@provokes(
    "cannot execute INSERT in a read-only transaction", "attempt to write a readonly database"
)
async def test_write_in_a_session_that_only_reads(databases: None, messages: list[str]) -> None:
    with pytest.raises(DBAPIError, match=of_backend(messages)):
        async with session_scope(read_only=True) as session:
            session.add(new_user())
    async with session_scope() as session:
        session.add(new_user())

    assert await stored_users() == 1


@pytest.mark.postgresql
@provokes("cached statement plan is invalid due to a database schema or configuration change")
async def test_statement_that_was_prepared_before_a_migration(
    single: None, messages: list[str]
) -> None:
    [message] = messages

    async def read() -> object:
        async with session_scope() as session:
            return await session.scalar(text("SELECT value FROM things"))

    await fetch("CREATE TABLE things AS SELECT 1 AS value")
    assert await read() == 1
    await fetch("ALTER TABLE things ALTER value TYPE text")

    with pytest.raises(NotSupportedError, match=message) as error:
        await read()
    assert problem_of(error.value).status == 503
    assert await read() == "1"


# Migrations


@provokes('relation "users" does not exist', "no such table: users")
async def test_database_that_is_not_migrated(
    new_database: str, environment: pytest.MonkeyPatch, messages: list[str]
) -> None:
    set_databases(environment, {"primary": new_database})

    with pytest.raises((ProgrammingError, OperationalError), match=of_backend(messages)):
        await stored_user()
    await asyncio.to_thread(migrations.upgrade, "primary")
    await stored_user()

    await dispose_engines()


@pytest.fixture
def history(tmp_path: Path) -> Config:
    """The configuration of the primary database, with a copy of its revisions."""
    folder = tmp_path / "revisions"
    folder.mkdir()
    for revision in (migrations.FOLDER / "primary").glob("*.py"):
        (folder / revision.name).write_text(revision.read_text())
    alembic = migrations.config("primary")
    alembic.set_section_option("primary", "version_locations", str(folder))
    return alembic


def add_revision(history: Config, name: str) -> None:
    """Write a revision that does nothing, after the newest one that is shipped."""
    newest = migrations.shipped("primary")[-1]
    folder = Path(history.get_section_option("primary", "version_locations") or "")
    (folder / f"{name}.py").write_text(
        f"revision, down_revision = {name!r}, {newest!r}\n"
        "def upgrade() -> None: ...\n"
        "def downgrade() -> None: ...\n"
    )


@provokes("Target database is not up to date.")
def test_revision_before_the_last_one_is_applied(
    new_database: str, environment: pytest.MonkeyPatch, history: Config, messages: list[str]
) -> None:
    [message] = messages
    set_databases(environment, {"primary": new_database})

    with pytest.raises(CommandError, match=message):
        command.revision(history, "more", autogenerate=True)
    migrations.upgrade("primary")

    assert command.revision(history, "more", autogenerate=True)


@provokes("Can't locate revision identified by")
def test_database_with_a_revision_that_has_no_file(
    migrated: None, history: Config, messages: list[str]
) -> None:
    [message] = messages
    add_revision(history, "gone")
    command.upgrade(history, "head")
    shipped = migrations.config("primary")

    with pytest.raises(CommandError, match=message):
        command.upgrade(shipped, "head")
    assert migrations.upgrade("primary") == []  # which an older release may say, and serve
    command.downgrade(history, "-1")

    command.upgrade(shipped, "head")


@provokes("Multiple head revisions are present for given argument 'head'")
def test_two_revisions_after_the_same_one(
    migrated: None, history: Config, messages: list[str]
) -> None:
    [message] = messages
    for name in ("mine", "yours"):
        add_revision(history, name)

    with pytest.raises(CommandError, match=message):
        command.upgrade(history, "head")
    command.merge(history, "heads", message="merge")
    command.upgrade(history, "head")


@provokes(
    "invalid interpolation syntax in",
    "'%' must be followed by '%' or '(', found",
)
def test_percent_sign_in_a_url(
    environment: pytest.MonkeyPatch, messages: list[str], tmp_path: Path
) -> None:
    in_python, in_a_file = messages
    url = f"sqlite:///{tmp_path}/100%.db"
    ini = tmp_path / "alembic.ini"

    with pytest.raises(ValueError, match=in_python):
        Config().set_main_option("sqlalchemy.url", url)
    ini.write_text(f"[alembic]\nsqlalchemy.url = {url}\n")
    with pytest.raises(Exception, match=in_a_file):
        Config(ini).get_main_option("sqlalchemy.url")
    ini.write_text(f"[alembic]\nsqlalchemy.url = {url.replace('%', '%%')}\n")
    assert Config(ini).get_main_option("sqlalchemy.url") == url

    set_databases(environment, {"primary": url})
    assert migrations.upgrade("primary")
    assert (tmp_path / "100%.db").exists()


# Tests

TESTS = """
import asyncio
import gc
import pytest
from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncSession, create_async_engine
from app.core.db import get_engine, session_scope
from tests.harness import postgresql

postgresql.SECONDS_TO_CLOSE = 0.5

kept = []

async def work(begun):
    async with session_scope() as session:
        await session.execute(text("SELECT 1"))
        begun.set()
        await asyncio.Event().wait()

async def test_task_that_goes_on(databases):
    begun = asyncio.Event()
    kept.append(asyncio.create_task(work(begun)))
    await begun.wait()

async def test_task_that_ends(databases):
    begun = asyncio.Event()
    task = asyncio.create_task(work(begun))
    await begun.wait()
    task.cancel()
    await asyncio.wait([task])

async def read_and_forget():
    session = AsyncSession(get_engine())
    await session.execute(text("SELECT 1"))

async def test_session_that_is_left(databases):
    await read_and_forget()
    gc.collect()

async def test_session_that_ends(databases):
    async with session_scope() as session:
        await session.execute(text("SELECT 1"))

@pytest.mark.postgresql
async def test_engine_that_is_left(databases):
    engine = create_async_engine(get_engine().url)
    kept.append(engine)
    async with engine.connect() as connection:
        await connection.execute(text("SELECT 1"))

async def test_engine_that_ends(databases):
    engine = create_async_engine(get_engine().url)
    async with engine.connect() as connection:
        await connection.execute(text("SELECT 1"))
    await engine.dispose()
"""


def run_tests(folder: Path, *options: str) -> str:
    """Return what pytest says of the tests above, with the fixtures of tests/conftest.py."""
    file = folder / "test_leaks.py"
    file.write_text(TESTS)
    settings = ["-n0", "-p", "no:cacheprovider", "-p", "tests.conftest"]
    settings += ["-c", str(ROOT / "pyproject.toml")]
    return run("-m", "pytest", *settings, *options, str(file), folder=folder).stdout


def failed(said: str) -> set[str]:
    """Return the tests that have failed, or whose fixtures have."""
    return {*re.findall(r"^(?:ERROR|FAILED) .*?::(\w+)", said, re.MULTILINE)}


@pytest.mark.sqlite
@provokes(
    "connections still checked out",
    "The garbage collector is trying to clean up non-checked-in connection",
)
def test_test_that_keeps_a_session(messages: list[str], tmp_path: Path) -> None:
    said = run_tests(tmp_path, "--db=sqlite")

    for message in messages:
        assert re.search(rf"(AssertionError|SAWarning): {message}", said), said
    assert failed(said) == {"test_task_that_goes_on", "test_session_that_is_left"}
    assert "4 passed" in said


@pytest.mark.postgresql
@provokes("the test has left connections open")
def test_test_that_keeps_an_engine(
    messages: list[str], postgresql: Server, tmp_path: Path, environment: pytest.MonkeyPatch
) -> None:
    [message] = messages
    environment.delenv("TEST_POSTGRES", raising=False)
    environment.setenv("TEST_DATABASE_URL", postgresql.url("leaks_test"))
    said = run_tests(tmp_path, "--db=postgresql", "-k=test_engine")

    assert re.search(f"Failed: {message}", said), said
    assert failed(said) == {"test_engine_that_is_left"}
    assert "2 passed" in said
