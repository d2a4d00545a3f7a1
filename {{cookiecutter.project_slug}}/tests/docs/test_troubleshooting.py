"""Tests docs/troubleshooting.md: provokes every message of the page and applies its fix."""

import asyncio
import inspect
import os
import re
import shutil
import socket
import subprocess
import sys
from argparse import Namespace
from collections.abc import AsyncGenerator, Callable, Iterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Any, NamedTuple, TypeVar
from urllib.parse import quote
from uuid import uuid4

import pytest
from alembic import command
from alembic.config import Config
from alembic.util import CommandError
from fastapi import Depends, FastAPI, Response
from fastapi.exceptions import DependencyScopeError
from httpx2 import AsyncClient
from sqlalchemy import (
    ARRAY,
    Column,
    Computed,
    Enum,
    ForeignKey,
    Index,
    Integer,
    MetaData,
    String,
    Table,
    Uuid,
    any_,
    func,
    insert,
    literal,
    make_url,
    select,
    text,
)
from sqlalchemy.exc import (
    DBAPIError,
    InterfaceError,
    InvalidRequestError,
    NoSuchModuleError,
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
from app.core.config import Settings, get_database, get_settings, variable
from app.core.db import (
    ConfigurationError,
    TransactionFailedError,
    dispose_engines,
    get_engine,
    session_scope,
)
from app.core.web.problem_details import problem_for
from app.dependencies import SessionDep
from app.models import METADATA, User, base
from tests import processes
from tests.conformance.harness.fragile import fragile
from tests.conformance.harness.pgbouncer import pgbouncer_before
from tests.conformance.harness.proxy import Proxy
from tests.conformance.harness.tls import TlsServer, tls_server
from tests.conformance.inspection import execute_script
from tests.conformance.support import create_tables, relate
from tests.docs.conftest import Load
from tests.docs.snippets import ROOT
from tests.docs.test_pages import anchors
from tests.harness.backends import Backend
from tests.harness.connections import connect
from tests.harness.postgresql import Server
from tests.inspection import fetch, nobody_is_connected, pid, stored_users, until_active
from tests.migrations import test_migrations as service_tests
from tests.support import (
    configure,
    disconnecting,
    new_user,
    set_databases,
    until,
    user_values,
)

PAGE = ROOT / "docs" / "troubleshooting.md"

Test = TypeVar("Test", bound=Callable[..., Any])

PASSWORD = "secret"

PROVOKED: dict[str, tuple[str, ...]] = {}  # messages by the name of the test


class Section(NamedTuple):
    anchor: str
    messages: list[str]  # in the heading and in the paragraph that begins with "Also"
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
    """Return a pattern for the message that allows any number for each of its numbers."""
    return re.sub(r"\d+", r"\\d+", re.escape(message))


def provokes(*messages: str) -> Callable[[Test], Test]:
    """Register the messages that a test provokes; the test gets them as the fixture `messages`."""

    def register(test: Test) -> Test:
        assert "messages" in inspect.signature(test).parameters
        PROVOKED[test.__name__] = messages
        return test

    return register


@pytest.fixture
def messages(request: pytest.FixtureRequest) -> list[str]:
    """Patterns of the messages that the test provokes."""
    return [pattern(message) for message in PROVOKED[request.function.__name__]]


def test_table_lists_every_message_in_the_order_of_the_sections() -> None:
    rows = re.findall(r"^\| \[`([^`]+)`\]\(#(.+?)\) \| .+ \|$", PAGE.read_text(), re.MULTILINE)

    assert rows == [(m, section.anchor) for section in sections() for m in section.messages]
    assert {anchor for _, anchor in rows} <= anchors(PAGE)
    assert not [
        a for _, a in rows if "--" in a or a.strip("-") != a
    ]  # GitLab generates other anchors for these


def test_a_test_or_a_snippet_provokes_every_message() -> None:
    provoked = {message for messages in PROVOKED.values() for message in messages}
    on_page = set()
    for section in sections():
        assert section.messages, section.anchor
        printed = "\n".join(re.findall(r"^ *# > (.*)$", section.text, re.MULTILINE))
        for message in section.messages:
            on_page.add(message)
            assert message in provoked or re.search(pattern(message), printed), message

    assert provoked <= on_page


# Helpers


@asynccontextmanager
async def plain_engine(url: Any = None, **options: Any) -> AsyncGenerator[AsyncEngine, None]:
    """Yield an engine of SQLAlchemy itself, for the primary database or another URL."""
    engine = create_async_engine(url or get_engine().url, **options)
    try:
        yield engine
    finally:
        await engine.dispose()


def run(*arguments: str, folder: Path) -> subprocess.CompletedProcess[str]:
    """Run Python with the databases of the test, in a folder without a .env."""
    return subprocess.run(
        [sys.executable, *arguments],
        capture_output=True,
        check=False,
        cwd=folder,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        text=True,
        timeout=60,
    )


def for_backend(messages: Sequence[str]) -> str:
    """Return the first message on PostgreSQL and the second one on SQLite."""
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
async def test_expired_attribute_raises_until_it_is_refreshed(
    databases: None, messages: list[str]
) -> None:
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


@provokes("greenlet_spawn has not been called")
@pytest.mark.usefixtures("surroundings")
@pytest.mark.filterwarnings("ignore:coroutine 'Connection.cursor' was never awaited")
@pytest.mark.parametrize("load", [None, "selectin"])
async def test_attribute_of_a_subclass_raises_unless_it_is_loaded_with_the_base_class(
    messages: list[str], load: str | None
) -> None:
    class Animal(base.PrimaryBase):
        __tablename__ = "animals"
        id: Mapped[int] = mapped_column(primary_key=True)
        kind: Mapped[str]
        __mapper_args__: Any = {"polymorphic_on": "kind", "polymorphic_identity": "animal"}

    class Dog(Animal):
        __tablename__ = "dogs"
        id: Mapped[int] = mapped_column(ForeignKey("animals.id"), primary_key=True)
        bark: Mapped[str]
        __mapper_args__: Any = {"polymorphic_identity": "dog", "polymorphic_load": load}

    await create_tables(base.PrimaryBase)
    async with session_scope() as session:
        session.add(Dog(bark="wow"))

    async with session_scope() as session:
        [dog] = await session.scalars(select(Animal))
        assert isinstance(dog, Dog)
        if load:
            assert dog.bark == "wow"
        else:
            with pytest.raises(SQLAlchemyError, match=messages[0]):
                dog.bark  # noqa: B018


@provokes("is not bound to a Session; attribute refresh operation cannot proceed")
async def test_expired_attribute_raises_after_its_session_unless_refreshed(
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
async def test_relationship_raises_unless_the_statement_loads_it(messages: list[str]) -> None:
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
def test_relationship_without_lazy_is_rejected(messages: list[str]) -> None:
    [message] = messages
    with pytest.raises(TypeError, match=message):
        relate()


@pytest.mark.postgresql
@provokes("cannot perform operation: another operation is in progress")
async def test_commit_fails_while_a_task_uses_the_session(
    databases: None, messages: list[str]
) -> None:
    [message] = messages

    async def sleep(session: AsyncSession, seconds: float) -> None:
        await session.execute(text("SELECT pg_sleep(:seconds)"), {"seconds": seconds})

    with pytest.raises(InterfaceError, match=message):
        async with session_scope() as session:
            number = await pid(session)
            left_running = asyncio.create_task(sleep(session, 60))
            await until_active(number)
    await asyncio.wait([left_running])
    assert left_running.exception()

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
def test_engine_fails_in_another_event_loop(
    databases: None, messages: list[str], tmp_path: Path
) -> None:
    other_loop, closed = messages
    ended = run("-c", LOOPS, folder=tmp_path)

    assert re.search(other_loop, ended.stdout), ended
    assert re.search(f"RuntimeError: {closed}", ended.stderr), ended


def test_sessions_work_in_one_event_loop_after_another(databases: None) -> None:
    assert asyncio.run(stored_user()) is not asyncio.run(stored_user())
    assert asyncio.run(stored_users()) == 2


@provokes("the session has ended before this task could use it")
async def test_session_that_has_ended_gets_no_connection(
    single_connection: None, messages: list[str]
) -> None:
    [message] = messages

    async def read(session: AsyncSession) -> int:
        return await session.scalar(select(1)) or 0

    async def read_in_a_new_session() -> int:
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

    assert await asyncio.create_task(read_in_a_new_session()) == 1


@provokes('has a scope of "request", it cannot depend on dependencies with scope "function"')
async def test_dependency_with_yield_needs_function_scope(
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
    "a statement failed, its error was caught, and the database has rolled back the transaction",
)
async def test_swallowed_error_fails_the_commit_unless_in_a_savepoint(
    databases: None, messages: list[str]
) -> None:
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
async def test_time_with_a_zone_needs_a_column_with_one(
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
async def test_time_without_a_zone_is_rejected(databases: None, messages: list[str]) -> None:
    [message] = messages

    async def add(time: datetime) -> None:
        async with session_scope() as session:
            session.add(new_user(created_at=time))

    with pytest.raises(StatementError, match=message):
        await add(datetime.now())  # noqa: DTZ005
    await add(datetime.now(UTC))

    assert await stored_users() == 1


@provokes("expected to update 1 row(s); 0 were matched")
async def test_write_of_an_outdated_version_returns_409(
    databases: None, messages: list[str]
) -> None:
    [message] = messages
    read = await stored_user()
    user_id = read.id
    async with session_scope() as session:
        (await session.get_one(User, user_id)).name = "Grace"

    with pytest.raises(StaleDataError, match=message) as error:
        async with session_scope() as session:
            session.add(read)
            read.name = "Eve"
    assert problem_for(error.value).status == 409

    async with session_scope() as session:
        newest = await session.get_one(User, user_id)
        assert newest.name == "Grace"
        newest.name = "Eve"
    assert await fetch("SELECT name FROM users") == [("Eve",)]


# Connections


@provokes("QueuePool limit of size 20 overflow 0 reached, connection timed out, timeout 5.00")
async def test_session_held_during_a_call_exhausts_the_pool(
    single_connection: None, load: Load, messages: list[str]
) -> None:
    [message] = messages
    snippet = load("a call between two sessions")
    user = await stored_user()

    async def call() -> str:
        assert await count_users_in_a_session() == 1
        return "Grace"

    with pytest.raises(PoolTimeoutError, match=message) as error:
        await snippet.wrong(user.id, call)
    assert problem_for(error.value).status == 503
    async with (
        plain_engine(pool_size=1, max_overflow=0, pool_timeout=0.1) as engine,
        engine.connect(),
    ):
        with pytest.raises(PoolTimeoutError, match=message):
            await engine.connect()

    await snippet.right(user.id, call)
    assert await fetch("SELECT name FROM users") == [("Grace",)]


async def test_change_during_a_call_is_not_overwritten(load: Load) -> None:
    user = await stored_user()

    async def call_that_writes() -> str:
        async with session_scope() as session:
            (await session.get_one(User, user.id)).name = "Eve"
        return "Grace"

    with pytest.raises(StaleDataError) as error:
        await load("a call between two sessions").right(user.id, call_that_writes)

    assert problem_for(error.value).status == 409
    assert await fetch("SELECT name FROM users") == [("Eve",)]


async def count_users_in_a_session() -> int:
    async with session_scope() as session:
        return len((await session.scalars(select(User.id))).all())


@pytest.mark.postgresql
@provokes("sorry, too many clients already", "remaining connection slots are reserved for")
async def test_smaller_pool_avoids_too_many_clients(
    environment: pytest.MonkeyPatch, messages: list[str]
) -> None:
    none_left, reserved = messages

    async def use(number: int) -> None:
        """Use this many sessions at the same time, or as many as the pool has connections."""

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
        await connection.execute("ALTER SYSTEM SET max_connections = 6")  # 3 are for superusers
        await connection.close()
        server.crash()
        connection = await connect(superuser)
        await connection.execute(f"CREATE ROLE plain LOGIN PASSWORD '{PASSWORD}'")
        await connection.close()
        plain_user = superuser.set(username="plain", password=PASSWORD)
        set_databases(environment, {"primary": plain_user.render_as_string(hide_password=False)})

        async with AsyncExitStack() as stack:
            for _ in range(3):
                session = await stack.enter_async_context(session_scope())
                await session.execute(text("SELECT 1"))
            with pytest.raises(OperationalError, match=reserved) as error:
                await use(1)
            assert problem_for(error.value).status == 503
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
async def test_parameters_of_libpq_are_translated(
    environment: pytest.MonkeyPatch, messages: list[str]
) -> None:
    [message] = messages
    url = make_url("postgresql://u:p@127.0.0.1:1/d?sslmode=disable")

    async with plain_engine(url.set(drivername="postgresql+asyncpg")) as engine:
        with pytest.raises(TypeError, match=message):
            await engine.connect()

    set_databases(environment, {"primary": url.render_as_string(hide_password=False)})
    with pytest.raises(OperationalError):  # it tries to connect to a port without a server
        async with session_scope() as session:
            await session.execute(text("SELECT 1"))
    await dispose_engines()


@provokes("which asyncpg cannot take from a URL", "asyncpg has no channel binding")
def test_parameters_of_providers_are_refused_and_the_replacements_are_accepted(
    environment: pytest.MonkeyPatch, messages: list[str]
) -> None:
    page = PAGE.read_text()
    rows = re.findall(r"^\| `(\?\S+)` \| (?:`(\?\S+)`)?.* \|$", page, re.MULTILINE)
    assert len(rows) == 3
    for wrong, right in rows:
        set_databases(environment, {"primary": f"postgresql://u:p@h/d{wrong}"})
        with pytest.raises(ConfigurationError, match="|".join(messages)):
            get_settings()
        set_databases(environment, {"primary": f"postgresql://u:p@h/d{right}"})
        assert get_database().url()


@pytest.fixture(scope="module")
def tls() -> Iterator[TlsServer]:
    """A server that checks passwords."""
    with tls_server() as server:
        yield server


async def current_user() -> str:
    async with session_scope() as session:
        user = await session.scalar(text("SELECT current_user"))
    await dispose_engines()
    return str(user)


@provokes("password authentication failed for user")
async def test_password_in_dotenv_is_expanded_unless_it_is_percent_encoded(
    tls: TlsServer, environment: pytest.MonkeyPatch, messages: list[str], tmp_path: Path
) -> None:
    [message] = messages
    role = "CREATE ROLE with_password LOGIN PASSWORD 'a${b}c%'"
    await execute_script(tls.url.render_as_string(), role)
    dotenv = tmp_path / ".env"
    environment.setitem(Settings.model_config, "env_file", dotenv)
    url = f"@localhost:{tls.url.port}/postgres"

    def configured(password: str) -> None:
        dotenv.write_text(f'DATABASE_URL="postgresql://with_password:{password}{url}"\n')
        get_settings.cache_clear()

    configured("a${b}c%25")
    with pytest.raises(OperationalError, match=message):
        await current_user()
    configured(quote("a${b}c%", safe=""))
    assert await current_user() == "with_password"


@provokes("the value starts or ends with white space")
@pytest.mark.parametrize("password", ["secret\n", " secret"])
def test_white_space_has_to_be_percent_encoded(
    environment: pytest.MonkeyPatch, messages: list[str], password: str
) -> None:
    [message] = messages
    for name, value in {"HOST": "h", "DBNAME": "d", "PASSWORD": password}.items():
        environment.setenv(f"DATABASES__PRIMARY__{name}", value)
    with pytest.raises(ConfigurationError, match=message):
        get_settings()

    for name in ("HOST", "DBNAME", "PASSWORD"):
        environment.delenv(f"DATABASES__PRIMARY__{name}")
    set_databases(environment, {"primary": f"postgresql://u:{quote(password)}@h/d"})
    assert get_database().url().password == password


@provokes("certificate verify failed", "write the path of a PEM file that the service can read")
async def test_certificate_is_verified_with_the_ca_of_the_url(
    tls: TlsServer, environment: pytest.MonkeyPatch, messages: list[str], tmp_path: Path
) -> None:
    not_verified, not_readable = messages
    environment.setenv("HOME", str(tmp_path))
    url = f"{tls.url}?sslmode=verify-full"
    set_databases(environment, {"primary": url})
    with pytest.raises(OperationalError, match=not_verified):
        await current_user()
    set_databases(environment, {"primary": f"{url}&sslrootcert={tmp_path}/ca.crt"})
    with pytest.raises(ConfigurationError, match=not_readable):
        get_settings()

    shutil.copy(tls.folder / "ca.crt", tmp_path)
    assert await current_user() == "postgres"


@provokes("add it there, or set PGSERVICEFILE")
def test_service_has_to_be_in_the_service_file(
    environment: pytest.MonkeyPatch, messages: list[str], tmp_path: Path
) -> None:
    [message] = messages
    file = tmp_path / "services"
    environment.setenv("PGSERVICEFILE", str(file))
    set_databases(environment, {"primary": "postgresql://?service=orders"})
    with pytest.raises(ConfigurationError, match=message):
        get_settings()

    file.write_text("[orders]\nhost=db.example.com\n")
    assert get_database().url().query["host"] == "db.example.com"


@provokes(
    "Can't load plugin: sqlalchemy.dialects:postgres",
    "The asyncio extension requires an async driver to be used",
)
async def test_urls_without_an_async_driver_are_resolved(
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
async def test_pgbouncer_works_with_its_setting_only(
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
async def test_timeouts_end_statements_and_can_be_raised_locally(
    databases: None, environment: pytest.MonkeyPatch, messages: list[str]
) -> None:
    too_slow, too_late = messages
    await stored_user()
    await dispose_engines()
    configure(environment, statement_timeout=0.5, lock_timeout=0.2)

    with pytest.raises(DBAPIError, match=too_slow) as error:
        async with session_scope() as session:
            await session.execute(text("SELECT pg_sleep(60)"))
    assert problem_for(error.value).status == 503
    with pytest.raises(DBAPIError, match=too_late) as error:
        async with session_scope() as one, session_scope() as other:
            for session in (one, other):
                await session.execute(select(User).with_for_update())
    assert problem_for(error.value).status == 503

    async with session_scope() as session:
        await session.execute(text("SET LOCAL statement_timeout = '10s'"))
        await session.execute(text("SELECT pg_sleep(0.7)"))
    async with session_scope() as session:
        assert await session.scalar(text("SHOW statement_timeout")) == "500ms"


@pytest.mark.sqlite
@provokes("database is locked")
async def test_second_writer_of_a_file_gets_503(
    databases: None, environment: pytest.MonkeyPatch, messages: list[str]
) -> None:
    [message] = messages
    environment.setattr("app.core.database.sqlite.BUSY_TIMEOUT", 0.1)

    with pytest.raises(OperationalError, match=message):  # after the timeout
        async with session_scope() as one, session_scope() as other:
            for session in (one, other):
                session.add(new_user())
                await session.flush()
    with pytest.raises(
        OperationalError, match=message
    ) as error:  # at once: it has read an old version
        async with session_scope() as session:
            await session.scalars(select(User))
            await stored_user()
            session.add(new_user())
    assert problem_for(error.value).status == 503

    async with session_scope() as session:
        session.add(new_user())
    await stored_user()
    assert await stored_users() == 3


@provokes(
    "cannot execute INSERT in a read-only transaction", "attempt to write a readonly database"
)
async def test_read_only_session_refuses_writes(databases: None, messages: list[str]) -> None:
    with pytest.raises(DBAPIError, match=for_backend(messages)):
        async with session_scope(read_only=True) as session:
            session.add(new_user())
    async with session_scope() as session:
        session.add(new_user())

    assert await stored_users() == 1


@pytest.mark.postgresql
@provokes(
    "cached statement plan is invalid due to a database schema or configuration change",
    "cache lookup failed for type",
    "type with OID 16475 does not exist",
)
async def test_statement_prepared_before_a_migration_works_on_retry(
    single_connection: None, messages: list[str]
) -> None:
    async def read(statement: str) -> object:
        async with session_scope() as session:
            return await session.scalar(text(statement), {"x": "1"} if ":x" in statement else {})

    types = ["CREATE TYPE n AS ENUM ('1')", "CREATE TYPE place AS (x int)"]
    replaced = ["ALTER TABLE things ALTER value TYPE text", "DROP TYPE n, place", *types]
    for statement in ("CREATE TABLE things AS SELECT '1'::char(1) AS value", *types):
        await fetch(statement)
    for message, statement in zip(
        messages,
        [
            "SELECT value FROM things",
            "SELECT CAST(:x AS n)",
            "SELECT CAST(:x AS text), CAST(ROW (1) AS place)",
        ],
        strict=True,
    ):
        assert await read(statement) == "1"
        for change in replaced:
            await fetch(change)
        with pytest.raises(DBAPIError, match=message) as error:
            await read(statement)
        assert problem_for(error.value).status == 503
        assert await read(statement) == "1"


@provokes("cannot listen on 127.0.0.1, port 8000: Address already in use")
def test_port_in_use_is_reported_with_the_setting(messages: list[str], tmp_path: Path) -> None:
    [message] = messages
    with socket.create_server(("127.0.0.1", 0)) as taken:
        variables = processes.VARIABLES | {"PORT": str(taken.getsockname()[1])}
        ended = processes.run("serve", variables=variables, folder=tmp_path, exit_code=1)
        with processes.serving(variables=variables, folder=tmp_path):  # with another --port
            pass

    assert re.fullmatch(f"error: {message}: set PORT, or --host\n", ended.stderr)


@pytest.mark.sqlite  # it uses no database
@provokes("The client has not read 64 KiB within WRITE_TIMEOUT=30 s")
async def test_client_that_does_not_read_is_logged(
    app: FastAPI,
    server: AsyncClient,
    environment: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    messages: list[str],
) -> None:
    environment.setenv("WRITE_TIMEOUT", "1")
    get_settings.cache_clear()

    @app.get("/large")
    async def large() -> Response:
        return Response(bytes(50 * 2**20))

    async with disconnecting(server, "GET", "/large"):
        await until(lambda: all(re.search(m, caplog.text) for m in messages), 60)

    assert len((await server.get("/large")).content) == 50 * 2**20


@pytest.mark.postgresql
@provokes("no response to COMMIT: the transaction may be stored or not")
async def test_commit_without_a_response_may_have_been_stored(
    databases: None, environment: pytest.MonkeyPatch, messages: list[str]
) -> None:
    [message] = messages
    async with Proxy(os.environ[variable("primary")]) as proxy:
        set_databases(environment, {"primary": proxy.url})
        for is_delivered in (False, True):
            proxy.lose(b"COMMIT", is_delivered=is_delivered)
            with pytest.raises(OperationalError, match=message) as error:
                await stored_user()
            assert problem_for(error.value).status == 503
            await until(nobody_is_connected)
            assert await stored_users() == is_delivered
        await dispose_engines()


# Statements


@pytest.mark.postgresql
@provokes("could not determine data type of parameter $1")
async def test_parameter_without_a_type_is_cast(databases: None, messages: list[str]) -> None:
    [message] = messages
    async with session_scope() as session:
        with pytest.raises(DBAPIError, match=message):
            await session.scalar(text("SELECT :name IS NULL"), {"name": "Ada"})
        await session.rollback()

        cast = text("SELECT CAST(:name AS text) IS NULL")
        assert await session.scalar(cast, {"name": "Ada"}) is False


@pytest.mark.postgresql
@provokes("the number of query arguments cannot exceed 32767")
async def test_long_list_is_passed_as_an_array(databases: None, messages: list[str]) -> None:
    [message] = messages
    user = await stored_user()
    ids = [user.id, *(uuid4() for _ in range(32_767))]
    async with session_scope() as session:
        with pytest.raises(DBAPIError, match=message):
            await session.scalars(select(User).where(User.id.in_(ids)))
        await session.rollback()

        found = await session.scalars(
            select(User).where(User.id == any_(literal(ids, ARRAY(Uuid))))
        )
        assert [each.id for each in found] == [user.id]
        rows = [user_values() for _ in range(20_000)]
        await session.execute(insert(User), rows)


@pytest.mark.postgresql
@provokes("cannot insert multiple commands into a prepared statement")
async def test_each_statement_is_executed_by_itself(databases: None, messages: list[str]) -> None:
    [message] = messages
    statements = ["UPDATE users SET name = 'a'", "UPDATE users SET name = 'b'"]
    async with session_scope() as session:
        with pytest.raises(DBAPIError, match=message):
            await session.execute(text("; ".join(statements)))
        await session.rollback()

        for statement in statements:
            await session.execute(text(statement))


@pytest.mark.postgresql
@provokes('syntax error at or near "primary"')
async def test_name_of_the_database_is_quoted(databases: None, messages: list[str]) -> None:
    [message] = messages
    async with get_engine().connect() as connection:
        with pytest.raises(DBAPIError, match=message):
            await connection.execute(text("CREATE DATABASE primary"))
        await connection.rollback()
        with pytest.raises(DBAPIError, match="cannot run inside a transaction block"):
            await connection.execute(text('CREATE DATABASE "primary"'))
        await connection.rollback()


# Migrations


@provokes('relation "users" does not exist', "no such table: users")
async def test_tables_are_missing_until_the_database_is_migrated(
    new_database: str, environment: pytest.MonkeyPatch, messages: list[str]
) -> None:
    set_databases(environment, {"primary": new_database})

    with pytest.raises((ProgrammingError, OperationalError), match=for_backend(messages)):
        await stored_user()
    await asyncio.to_thread(migrations.upgrade, "primary")
    await stored_user()

    await dispose_engines()


@pytest.fixture
def history(tmp_path: Path) -> Config:
    """Alembic's configuration of the primary database, with a copy of its revisions."""
    folder = tmp_path / "primary"
    folder.mkdir()
    for revision in (migrations.FOLDER / "primary").glob("*.py"):
        (folder / revision.name).write_text(revision.read_text())
    alembic = migrations.config("primary")
    alembic.set_section_option("primary", "version_locations", str(folder))
    return alembic


def add_revision(history: Config, name: str, upgrade: str = "...") -> None:
    """Write a revision after the newest revision of the service; it does nothing by default."""
    newest = migrations.shipped("primary")[-1]
    folder = Path(history.get_section_option("primary", "version_locations") or "")
    migrations._script.cache_clear()
    (folder / f"{name}.py").write_text(
        f"revision, down_revision = {name!r}, {newest!r}\n"
        "import sqlalchemy as sa\nfrom alembic import op\n"
        f"def upgrade() -> None:\n    {upgrade}\n"
        "def downgrade() -> None: ...\n"
    )


@provokes("has unapplied revisions", "Target database is not up to date.")
def test_autogenerate_needs_a_migrated_database(
    new_database: str, environment: pytest.MonkeyPatch, history: Config, messages: list[str]
) -> None:
    of_revision, of_check = messages
    set_databases(environment, {"primary": new_database})

    with pytest.raises(CommandError, match=of_check):
        command.check(history)
    with pytest.raises(CommandError, match=of_revision):
        draft(history)
    migrations.upgrade("primary")

    history.cmd_opts = None
    command.check(history)


def draft(history: Config) -> None:
    """Do what `make revision` does."""
    history.cmd_opts = Namespace(autogenerate=True)
    command.revision(history, "more", autogenerate=True)


@provokes("autogenerate found no difference, so no revision is written")
def test_revision_without_changes_is_not_written(
    migrated: None, history: Config, messages: list[str]
) -> None:
    [message] = messages

    with pytest.raises(CommandError, match=message):
        draft(history)


@provokes("the column orders.total is generated in another way in the database")
def test_changed_expression_is_not_written(
    migrated: None, history: Config, messages: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    [message] = messages
    stored = "GENERATED ALWAYS AS (id * 2) STORED"
    create = f"CREATE TABLE orders (id INTEGER PRIMARY KEY, total INTEGER {stored})"
    migrations.run("primary", lambda connection: connection.exec_driver_sql(create))
    metadata = MetaData()
    changed = Column("total", Integer, Computed("id * 3", persisted=True))
    Table("orders", metadata, Column("id", Integer, primary_key=True), changed)
    monkeypatch.setitem(METADATA, "primary", metadata)

    with pytest.raises(CommandError, match=message):
        draft(history)


@provokes(
    "needs the PostgreSQL type 'color', which revisions cannot change or drop",
    "the table billing.orders has a schema",
)
def test_types_and_schemas_that_revisions_do_not_support_are_refused(
    migrated: None, history: Config, messages: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    of_type, of_schema = messages
    for message, column, schema in (
        (of_type, Column("color", Enum("RED", name="color")), None),
        (of_schema, Column("color", String(50)), "billing"),
    ):
        metadata = MetaData()
        Table("orders", metadata, column, schema=schema)
        monkeypatch.setitem(METADATA, "primary", metadata)
        with pytest.raises(CommandError, match=message):
            draft(history)


@pytest.mark.sqlite
@provokes("no revision is written, because it would be incomplete")
def test_index_on_an_expression_needs_postgresql(
    migrated: None, history: Config, messages: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    [message] = messages
    metadata = MetaData()
    users = METADATA["primary"].tables["users"].to_metadata(metadata)
    Index("lower", func.lower(users.c.email))
    monkeypatch.setitem(METADATA, "primary", metadata)

    with pytest.raises(CommandError, match=message):
        draft(history)


@provokes("no database has a revision in", "Alembic finds no revision in")
def test_missing_revisions_are_an_error(
    service_history: Config, messages: list[str], backend: Backend, environment: pytest.MonkeyPatch
) -> None:
    none, unreadable = messages
    set_databases(environment, {"primary": backend.new()})
    folder = migrations.FOLDER / "a\nb"
    shutil.copytree(migrations.FOLDER / "primary", folder / "primary")
    (migrations.FOLDER / "primary").rename(migrations.FOLDER / "renamed")
    for revision in (migrations.FOLDER / "renamed").glob("*.py"):
        revision.unlink()

    with pytest.raises(CommandError, match=rf"{none} .*: add the folders of the revisions"):
        migrations.upgrade_all()
    (migrations.FOLDER / "primary").mkdir()
    with pytest.raises(CommandError, match=rf"{none} .*: write the first one with"):
        migrations.upgrade_all()
    environment.setattr(migrations, "FOLDER", folder)
    migrations._script.cache_clear()
    with pytest.raises(CommandError, match=rf"{unreadable} .*: move the service to a path"):
        migrations.upgrade("primary")


@provokes("the revision drops the column")
def test_revision_that_drops_a_column_prints_a_warning(
    migrated: None, history: Config, messages: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    [message] = messages
    add = "ALTER TABLE users ADD COLUMN nickname VARCHAR(9)"
    migrations.run("primary", lambda connection: connection.exec_driver_sql(add))

    draft(history)

    assert re.search(message, capsys.readouterr().err)


@pytest.fixture
def service_history(history: Config, monkeypatch: pytest.MonkeyPatch) -> Iterator[Config]:
    """The same copy, which the service uses too."""
    folder = Path(history.get_section_option("primary", "version_locations") or "")
    for name in ("env.py", "script.py.mako"):
        shutil.copy(migrations.FOLDER / name, folder.parent)
    monkeypatch.setattr(migrations, "FOLDER", folder.parent)
    migrations._script.cache_clear()
    yield history
    migrations._script.cache_clear()


@provokes("fails if a table has rows")
def test_required_column_fails_if_a_table_has_rows(
    backend: Backend,
    environment: pytest.MonkeyPatch,
    service_history: Config,
    messages: list[str],
) -> None:
    [message] = messages
    set_databases(environment, {"primary": backend.new()})
    column = "sa.Column('age', sa.Integer, nullable=False)"
    add_revision(service_history, "required", f"op.add_column('users', {column})")

    with pytest.raises(pytest.fail.Exception, match=rf"(?s)required {message}.*users.*\bage\b"):
        service_tests.test_revisions_can_be_applied_to_tables_with_rows(
            None, backend, environment, "primary"
        )


def test_revision_that_rows_cannot_suit_is_reported_as_untested(
    backend: Backend, environment: pytest.MonkeyPatch, service_history: Config
) -> None:
    set_databases(environment, {"primary": backend.new()})
    add_revision(
        service_history,
        "check",
        "with op.batch_alter_table('users') as users: "
        "users.create_check_constraint('at', sa.text(\"email LIKE '%@%'\"))",
    )

    with pytest.raises(pytest.skip.Exception, match="check: "):
        service_tests.test_revisions_can_be_applied_to_tables_with_rows(
            None, backend, environment, "primary"
        )


@pytest.mark.sqlite
@provokes("has to read the database")
def test_copy_of_a_table_has_no_sql(
    migrated: None,
    service_history: Config,
    messages: list[str],
    capsys: pytest.CaptureFixture[str],
) -> None:
    [message] = messages
    add_revision(
        service_history, "copy", "with op.batch_alter_table('users') as u: u.drop_column('name')"
    )

    with pytest.raises(CommandError, match=rf"^copy.py, line \d+, {message}"):
        migrations.write_sql("primary")
    assert not capsys.readouterr().out


@provokes("Can't locate revision identified by")
def test_revision_without_a_file_stops_alembic_only(
    migrated: None, history: Config, messages: list[str]
) -> None:
    [message] = messages
    add_revision(history, "unknown")
    command.upgrade(history, "head")
    shipped = migrations.config("primary")

    with pytest.raises(CommandError, match=message):
        command.upgrade(shipped, "head")
    assert migrations.upgrade("primary") == []  # an older release starts with such a database
    command.downgrade(history, "-1")

    command.upgrade(shipped, "head")


@provokes("has 2 heads")
def test_two_heads_work_after_a_merge(migrated: None, history: Config, messages: list[str]) -> None:
    [message] = messages
    for name in ("left", "right"):
        add_revision(history, name)

    with pytest.raises(CommandError, match=message):
        command.upgrade(history, "head")
    command.merge(history, "heads", message="merge")
    command.upgrade(history, "head")


@provokes(
    "invalid interpolation syntax in",
    "'%' must be followed by '%' or '(', found",
)
def test_percent_sign_in_a_url_works_in_the_settings(
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

async def test_task_is_still_running(databases):
    begun = asyncio.Event()
    kept.append(asyncio.create_task(work(begun)))
    await begun.wait()

async def test_task_has_ended(databases):
    begun = asyncio.Event()
    task = asyncio.create_task(work(begun))
    await begun.wait()
    task.cancel()
    await asyncio.wait([task])

async def read_without_closing():
    session = AsyncSession(get_engine())
    await session.execute(text("SELECT 1"))

async def test_session_is_never_closed(databases):
    await read_without_closing()
    gc.collect()

async def test_session_is_closed(databases):
    async with session_scope() as session:
        await session.execute(text("SELECT 1"))

@pytest.mark.postgresql
async def test_engine_is_never_disposed_of(databases):
    engine = create_async_engine(get_engine().url)
    kept.append(engine)
    async with engine.connect() as connection:
        await connection.execute(text("SELECT 1"))

async def test_engine_is_disposed_of(databases):
    engine = create_async_engine(get_engine().url)
    async with engine.connect() as connection:
        await connection.execute(text("SELECT 1"))
    await engine.dispose()
"""


def run_tests(folder: Path, *options: str) -> str:
    """Run the tests above with the fixtures of tests/conftest.py; return the report."""
    file = folder / "test_leaks.py"
    file.write_text(TESTS)
    settings = ["-n0", "-p", "no:cacheprovider", "-p", "tests.conftest"]
    settings += ["-c", str(ROOT / "pyproject.toml")]
    return run("-m", "pytest", *settings, *options, str(file), folder=folder).stdout


def failed(report: str) -> set[str]:
    """Return the tests that failed or whose fixtures failed."""
    return {*re.findall(r"^(?:ERROR|FAILED) .*?::(\w+\[\w+\])", report, re.MULTILINE)}


@pytest.mark.postgresql
@provokes(
    "connections still checked out",
    "The garbage collector is trying to clean up non-checked-in connection",
    "the test has left connections open",
)
def test_fixtures_report_sessions_and_engines_that_are_left_open(
    messages: list[str], postgresql: Server, tmp_path: Path, environment: pytest.MonkeyPatch
) -> None:
    environment.delenv("TEST_POSTGRES", raising=False)
    environment.setenv("TEST_DATABASE_URL", postgresql.url("leaks_test"))
    report = run_tests(tmp_path, "-k=sqlite or test_engine")

    for message in messages:
        assert re.search(rf"(AssertionError|SAWarning|Failed): {message}", report), report
    assert failed(report) == {
        "test_task_is_still_running[sqlite]",
        "test_session_is_never_closed[sqlite]",
        "test_engine_is_never_disposed_of[postgresql]",
    }
    assert "6 passed" in report
