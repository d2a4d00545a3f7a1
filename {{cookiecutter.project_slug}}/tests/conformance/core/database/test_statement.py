"""Prepared statements: the rows, errors and transactions are those of `session.execute`."""

import asyncio
import enum
import logging
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager, suppress
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Any, cast
from uuid import UUID, uuid4
from weakref import ref

import pytest
from fastapi import FastAPI
from httpx2 import AsyncClient
from sqlalchemy import (
    ARRAY,
    JSON,
    Column,
    Enum,
    Integer,
    Interval,
    LargeBinary,
    MetaData,
    Numeric,
    Table,
    bindparam,
    column,
    delete,
    event,
    func,
    insert,
    literal,
    literal_column,
    null,
    select,
    text,
    type_coerce,
    union_all,
    update,
)
from sqlalchemy import cast as sql_cast
from sqlalchemy.exc import (
    DBAPIError,
    IntegrityError,
    InvalidRequestError,
    OperationalError,
    PendingRollbackError,
    SQLAlchemyError,
)
from sqlalchemy.ext.asyncio import AsyncSession
from sqlalchemy.orm import DeclarativeBase, Mapped, Session, mapped_column

from app.core.database.session import LazySession
from app.core.database.statement import MAX_COMPILED
from app.core.database.statistics import work
from app.core.db import (
    CommitOutcomeUnknownError,
    TransactionFailedError,
    dispose_engines,
    get_engine,
    prepared,
    session_scope,
)
from app.dependencies import SessionDep
from app.models import User
from app.models.base import UtcDateTime
from app.repositories.user import UserRepository
from tests.conformance.support import create_tables
from tests.inspection import (
    checked_out,
    connections,
    fetch,
    kill,
    observer,
    stored_users,
    until_active,
    until_closed,
)
from tests.support import collect_garbage, configure, new_user, problem, until, user_values


class Color(enum.Enum):
    RED = "red"


Statement = tuple[Any, dict[str, Any]]  # with its values

USERS = cast("Table", User.__table__)
ROW = prepared(select(USERS).where(USERS.c.id == bindparam("id")))
INSERT = prepared(insert(USERS).returning(USERS))
PID = prepared(select(func.pg_backend_pid()))
SLEEP = prepared(select(func.pg_sleep(bindparam("seconds", type_=Integer))))
NUMBER = bindparam("n", type_=Integer)

SELECTS: dict[str, Statement] = {
    "constants": (select(literal("a").label("a"), literal(2), null()), {}),
    "value used twice": (select(NUMBER, NUMBER + 2), {"n": 5}),
    "value with a default": (select(bindparam("n", 7)), {}),
    "value made at each call": (select(bindparam("n", callable_=lambda: 7)), {}),
    "same names": (select(literal(1).label("n"), literal(2).label("n")), {}),
    "JSON": (select(type_coerce(bindparam("j", type_=JSON), JSON)), {"j": {"a": [1, None]}}),
    "enum": (select(bindparam("c", type_=Enum(Color, native_enum=False))), {"c": Color.RED}),
    "numeric": (select(sql_cast(bindparam("d"), Numeric(10, 2))), {"d": Decimal("1.25")}),
    "bytes": (select(bindparam("b", type_=LargeBinary)), {"b": b"\0\xff"}),
    "time": (select(bindparam("t", type_=UtcDateTime)), {"t": datetime(2026, 1, 2, tzinfo=UTC)}),
    "IN": (select(literal(1)).where(literal(1).in_(bindparam("ns", expanding=True))), {"ns": [1]}),
    "no row": (ROW.statement, {"id": uuid4()}),
    "several rows": (union_all(select(literal(1)), select(literal(2))), {}),
    "text": (text("SELECT 1 AS n").columns(column("n", Integer)), {}),
    "columns in another order": (
        text("SELECT 1 AS n, 'red' AS c").columns(c=Enum(Color, native_enum=False), n=Integer),
        {},
    ),
    "star": (
        select(literal_column("*")).select_from(select(literal(1), literal(2)).subquery()),
        {},
    ),
    "text of columns": (select(text("1, 2")), {}),
    "two columns in one": (select(literal_column("1, 2"), literal(3).label("three")), {}),
    "long name": (select(literal(1).label("é" * 40)), {}),  # PostgreSQL truncates it
    "function": (func.lower("A"), {}),
    "text without columns": (text("SELECT 1 AS n"), {}),
    "execution options": (select(literal(1)).execution_options(a=1), {}),
}
ON_POSTGRESQL: dict[str, Statement] = {
    "array": (select(bindparam("a", type_=ARRAY(Integer))), {"a": [1, 2]}),
    "interval": (select(bindparam("i", type_=Interval)), {"i": timedelta(hours=1)}),
    "lock": (select(USERS).with_for_update(), {}),
}
FAILING: dict[str, Statement] = {
    "missing value": (ROW.statement, {}),
    "value refused by its type": (
        select(bindparam("t", type_=UtcDateTime)),
        {"t": datetime(2026, 1, 2)},  # noqa: DTZ001
    ),
    "NOT NULL": (insert(USERS), {"id": UUID(int=1), "name": None, "email": "secret"}),
    "unknown column": (select(column("unknown")).select_from(USERS), {}),
    "no such field": (insert(USERS), {"nothing": 1}),
}
FAILING["stored value refused by its type"] = (
    select(type_coerce(func.lower("SECRET"), Enum(Color, native_enum=False)).label("color")),
    {},
)
FAILING_ON_POSTGRESQL: dict[str, Statement] = {
    "value refused by the driver": (select(NUMBER), {"n": "secret"}),
    "timeout": (SLEEP.statement, {"seconds": 60}),
    "division": (select(literal(1) / (NUMBER - 1)), {"n": 1}),
}


async def outcomes(statement: Any, values: dict[str, Any]) -> list[Any]:
    """Return what a prepared statement returns or raises, and the same of `session.execute`."""
    found: list[Any] = []
    for run in (
        lambda session: prepared(statement).execute(session, values),
        lambda session: session.execute(statement, values),
    ):
        try:
            async with session_scope() as session:
                result = await run(session)
                rows = result.all()
                columns = getattr(statement, "exported_columns", ())
                mapped = [row._mapping[c] for row in rows for c in columns if c.key in row._fields]
                found.append([rows, mapped, [*result.keys()], [type(row) for row in rows]])
        except (SQLAlchemyError, LookupError) as error:
            causes = [type(error), type(getattr(error, "orig", None)), type(error.__cause__)]
            found.append([*causes, str(error), getattr(error, "__notes__", None)])
    return found


@pytest.mark.parametrize("name", SELECTS)
async def test_rows_are_those_of_the_session(databases: None, name: str) -> None:
    for _ in range(2):  # the second time, the statement is compiled
        ours, expected = await outcomes(*SELECTS[name])
        assert ours == expected


@pytest.mark.postgresql
@pytest.mark.parametrize("name", ON_POSTGRESQL)
async def test_rows_of_postgresql_are_those_of_the_session(databases: None, name: str) -> None:
    ours, expected = await outcomes(*ON_POSTGRESQL[name])
    assert ours == expected


@pytest.mark.parametrize("name", FAILING)
async def test_errors_are_those_of_the_session(databases: None, name: str) -> None:
    ours, expected = await outcomes(*FAILING[name])
    assert ours == expected
    assert "secret" not in ours[3]


@pytest.mark.postgresql
@pytest.mark.parametrize("name", FAILING_ON_POSTGRESQL)
async def test_errors_of_postgresql_are_those_of_the_session(
    databases: None, environment: pytest.MonkeyPatch, name: str
) -> None:
    configure(environment, statement_timeout=0.1)
    ours, expected = await outcomes(*FAILING_ON_POSTGRESQL[name])
    assert ours == expected
    assert "secret" not in ours[3]


async def test_defaults_of_columns_are_used(databases: None) -> None:
    async with session_scope() as session:
        row = await INSERT.one(session, **user_values("Ada"))
        version = prepared(update(USERS).values(version=USERS.c.version + 1).returning(USERS))
        assert (await version.one(session)).version == 2
        assert await ROW.one_or_none(session, id=uuid4()) is None
        found = await ROW.one(session, id=row.id)
    assert (found.name, found.version, found.created_at) == ("Ada", 2, row.created_at)

    async with session_scope() as session:
        deleted: Any = await prepared(delete(USERS)).execute(session, {})
        assert deleted.rowcount == 1
    assert await stored_users() == 0


class Base(DeclarativeBase):
    pass


class Greeting(Base):
    __tablename__ = "greetings"
    id: Mapped[int] = mapped_column(primary_key=True)
    name: Mapped[str]
    text: Mapped[str] = mapped_column(
        default=lambda context: f"Hello, {context.get_current_parameters()['name']}"
    )


async def test_default_may_depend_on_the_other_values(databases: None) -> None:
    await create_tables(Base)
    greetings = cast("Table", Greeting.__table__)
    greet = prepared(insert(greetings).returning(greetings))
    async with session_scope() as session:
        assert (await greet.one(session, name="Ada")).text == "Hello, Ada"


async def test_columns_of_a_row_have_the_keys_of_sqlalchemy(databases: None) -> None:
    same_names = select(literal(1).label("n"), literal(2).label("n"))
    other_key = Table("users", MetaData(), Column("name", key="other"))
    async with session_scope() as session:
        await INSERT.one(session, **user_values("Ada"))
        row = await prepared(select(other_key)).one(session)
        assert row._mapping["other"] == row._mapping[other_key.c.other] == "Ada"
        row = await prepared(same_names).one(session)
        with pytest.raises(InvalidRequestError, match="Ambiguous"):
            _ = row.n


@pytest.mark.postgresql
async def test_defaults_are_used_in_every_part_of_a_statement(databases: None) -> None:
    """On SQLite, INSERT cannot be a part of a SELECT."""
    part = insert(USERS).values(user_values()).returning(USERS).cte()
    async with session_scope() as session:
        row = await prepared(select(part)).one(session)
    async with session_scope() as session:
        assert await ROW.one(session, id=row.id) == row
        changed = update(USERS).values(name="Bob").returning(USERS).cte()
        row = await prepared(select(changed)).one(session)
    assert row.name == "Bob"


async def test_statements_of_all_kinds_share_one_transaction(databases: None) -> None:
    async with session_scope() as session:
        first = await INSERT.one(session, **user_values("first"))
        user = await session.get_one(User, first.id)  # takes the connection over
        user.name = "changed"
        await session.flush()
        assert (await ROW.one(session, id=first.id)).name == "changed"
        with pytest.raises(ZeroDivisionError):
            async with session.begin_nested():
                await INSERT.one(session, **user_values("savepoint"))
                raise ZeroDivisionError
        await INSERT.one(session, **user_values("last"))
        assert len(checked_out()) == 1
    assert await stored_users() == 2

    with pytest.raises(ZeroDivisionError):
        async with session_scope() as session:
            await INSERT.one(session, **user_values())
            session.add(new_user())
            raise ZeroDivisionError
    with pytest.raises(ZeroDivisionError):
        async with session_scope() as session:
            await INSERT.one(session, **user_values())
            raise ZeroDivisionError
    assert await stored_users() == 2
    assert not checked_out()


async def test_commit_by_hand_returns_the_connection(databases: None) -> None:
    async with session_scope() as session:
        await INSERT.one(session, **user_values())
        await session.commit()
        assert not checked_out()
        await INSERT.one(session, **user_values())
        await session.rollback()
        assert not checked_out()
        await INSERT.one(session, **user_values())
    assert await stored_users() == 2


async def test_session_that_has_ended_refuses_a_statement(databases: None) -> None:
    async with session_scope() as session:
        await INSERT.one(session, **user_values())
    with pytest.raises(SQLAlchemyError, match="permanently closed"):
        await INSERT.one(session, **user_values())
    async with session_scope() as session:
        pass
    with pytest.raises(SQLAlchemyError, match="permanently closed"):
        await session.execute(select(USERS))
    assert not checked_out()


# PostgreSQL: what the ordinary execution would do for a statement


@pytest.mark.postgresql
async def test_commit_of_a_failed_transaction_raises(databases: None) -> None:
    values = user_values()
    with pytest.raises(TransactionFailedError):
        async with session_scope() as session:
            await INSERT.one(session, **values)
            with pytest.raises(SQLAlchemyError):
                await INSERT.one(session, **values)
    assert await stored_users() == 0


@pytest.mark.postgresql
async def test_repository_does_not_need_the_session_of_the_orm(databases: None) -> None:
    async with session_scope() as session:
        users = UserRepository(session)
        row = await users.add(user_values())
        assert await users.get(row.id) == row
        assert await users.page(1, None) == await users.page(1, (row.created_at, UUID(int=0)))
        assert isinstance(session, LazySession)
        assert not session.has_sync_session


@pytest.mark.postgresql
async def test_commit_that_fails_rolls_back_and_keeps_the_connection(
    databases: None, caplog: pytest.LogCaptureFixture
) -> None:
    values = user_values()
    async with session_scope() as session:
        before = (await PID.one(session))[0]
        await INSERT.one(session, **values)
        with pytest.raises(SQLAlchemyError):
            await INSERT.one(session, **values)
        with pytest.raises(TransactionFailedError):
            await session.commit()
        await session.rollback()
        await INSERT.one(session, **values)
    async with session_scope() as session:
        assert (await PID.one(session))[0] == before
    assert await stored_users() == 1
    assert not [r for r in caplog.records if r.levelno >= logging.WARNING]


@pytest.mark.postgresql
async def test_error_of_the_commit_is_that_of_the_session(
    single_connection: None, caplog: pytest.LogCaptureFixture
) -> None:
    async with session_scope() as session:
        await session.execute(
            text(
                "ALTER TABLE users ADD COLUMN other UUID REFERENCES users (id) "
                "DEFERRABLE INITIALLY DEFERRED"
            )
        )
        await session.execute(text("ALTER TABLE users ALTER other SET DEFAULT gen_random_uuid()"))
    errors = []
    for execute in (
        INSERT.execute,
        lambda session, values: session.execute(INSERT.statement, values),
    ):
        with pytest.raises(IntegrityError) as error:
            async with session_scope() as session:
                await execute(session, user_values())
        errors.append(error.value)

    assert [str(error) for error in errors] == [str(errors[0])] * 2
    assert await stored_users() == 0
    assert not checked_out()
    assert not [r for r in caplog.records if r.levelno >= logging.WARNING]


@pytest.mark.postgresql
async def test_connection_beyond_the_pool_size_is_closed_after_the_commit(
    databases: None, environment: pytest.MonkeyPatch
) -> None:
    configure(environment, pool_size=1, max_overflow=1)
    async with session_scope() as one, session_scope() as other:
        for session in (one, other):
            await INSERT.one(session, **user_values())

    async def one_is_left() -> bool:
        return await connections() == 1

    await until(one_is_left)
    assert await stored_users() == 2


@asynccontextmanager
async def committing() -> AsyncGenerator[tuple[AsyncSession, asyncio.Task[None]], None]:
    """Yield a session while its COMMIT waits for a lock, and the task that awaits its end."""
    await fetch(
        "CREATE FUNCTION wait() RETURNS trigger LANGUAGE plpgsql AS "
        "$$ BEGIN PERFORM pg_advisory_xact_lock(1); RETURN NULL; END $$"
    )
    await fetch(
        "CREATE CONSTRAINT TRIGGER wait AFTER INSERT ON users DEFERRABLE INITIALLY DEFERRED "
        "FOR EACH ROW EXECUTE FUNCTION wait()"
    )
    opened: asyncio.Future[tuple[AsyncSession, int]] = asyncio.Future()

    async def write() -> None:
        async with session_scope() as session:
            await INSERT.one(session, **user_values())
            opened.set_result((session, (await PID.one(session))[0]))

    async with observer() as other:
        await other.execute(text("SELECT pg_advisory_lock(1)"))
        task = asyncio.create_task(write())
        session, number = await opened
        await until_active(number)
        yield session, task


@pytest.mark.postgresql
async def test_connection_that_is_beyond_the_pool_size_after_the_commit_is_closed(
    databases: None, environment: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    configure(environment, pool_size=1, max_overflow=1)
    async with committing() as (_, task), session_scope() as session:
        await PID.one(session)
    await task
    assert not [r for r in caplog.records if r.levelno >= logging.WARNING]

    async def one_is_left() -> bool:
        return await connections() == 1

    await until(one_is_left)


@pytest.mark.postgresql
async def test_statement_of_another_task_during_the_commit_fails_alone(databases: None) -> None:
    async with committing() as (session, task):
        with pytest.raises(DBAPIError, match="another operation is in progress"):
            await session.execute(text("SELECT 1"))
    await task
    assert await stored_users() == 1


@pytest.mark.postgresql
async def test_commit_on_a_connection_that_another_task_closes_has_an_unknown_outcome(
    databases: None,
) -> None:
    with pytest.raises(OperationalError) as error:
        async with committing() as (session, task):
            await session.invalidate()
            await task
    assert isinstance(error.value.orig, CommitOutcomeUnknownError)
    assert not checked_out()


@pytest.mark.postgresql
async def test_commit_that_is_cancelled_before_another_task_closes_the_session_stays_cancelled(
    databases: None,
) -> None:
    async with committing() as (session, task):
        task.cancel()
        await asyncio.sleep(0)
        closing = asyncio.create_task(session.close())
    await asyncio.wait([task, closing])
    assert task.cancelled()
    assert isinstance(closing.exception(), OperationalError)
    assert not checked_out()


@pytest.mark.postgresql
async def test_commit_by_hand_that_fails_is_an_error_at_the_end(databases: None) -> None:
    values = user_values()
    with pytest.raises(PendingRollbackError):
        async with session_scope() as session:
            await INSERT.one(session, **values)
            with pytest.raises(SQLAlchemyError):
                await INSERT.one(session, **values)
            with pytest.raises(TransactionFailedError):
                await session.commit()
    assert await stored_users() == 0


@pytest.mark.postgresql
async def test_close_of_a_lost_connection_raises_its_error_and_closes(databases: None) -> None:
    async with session_scope() as session:
        await kill((await PID.one(session))[0])
        with pytest.raises(OperationalError):
            await session.close()
        with pytest.raises(InvalidRequestError, match="permanently closed"):
            await PID.one(session)
        assert not checked_out()


@pytest.mark.postgresql
@pytest.mark.parametrize("read_only", [False, True])
@pytest.mark.parametrize("names", [("checkout", "checkin"), ("reset",)])
async def test_listeners_of_the_pool_may_execute_statements(
    databases: None, names: tuple[str, ...], read_only: bool
) -> None:
    def execute(connection: Any, *_: object) -> None:
        cursor = connection.cursor()
        cursor.execute("SELECT 1")
        cursor.close()
        connection.rollback()
        called.append(True)

    called: list[bool] = []
    pool = get_engine(read_only=read_only).sync_engine.pool
    for name in names:
        event.listen(pool, name, execute)
    pids = set()
    for _ in range(3):
        async with session_scope(read_only=read_only) as session:
            pids.add((await PID.one(session))[0])
        assert not checked_out()
    assert len(pids) == 1
    assert len(called) == 3 * len(names)


@pytest.mark.postgresql
async def test_wait_between_a_prepared_and_another_statement_is_idle(
    app: FastAPI, client: AsyncClient, environment: pytest.MonkeyPatch
) -> None:
    configure(environment, idle_in_transaction_timeout=0.1)

    @app.get("/idle")
    async def idle(session: SessionDep) -> None:
        number = (await PID.one(session))[0]
        await until_closed(number)
        await session.execute(text("SELECT 1"))

    response = await client.get("/idle")
    assert problem(response)["detail"].startswith("The transaction was idle for too long.")


@pytest.mark.postgresql
async def test_statements_prepared_in_a_function_do_not_fill_the_memory(databases: None) -> None:
    for _ in range(MAX_COMPILED + 1):
        async with session_scope() as session:
            await prepared(select(literal(1))).one(session)
    assert isinstance(session, LazySession)
    assert len(session.compiled) <= MAX_COMPILED


@pytest.mark.postgresql
async def test_read_only_session_refuses_a_write(databases: None) -> None:
    with pytest.raises(DBAPIError, match="read-only transaction"):
        async with session_scope(read_only=True) as session:
            await INSERT.one(session, **user_values())
    async with session_scope(read_only=True) as session:
        assert await ROW.one_or_none(session, id=uuid4()) is None


@pytest.mark.postgresql
async def test_listeners_of_sessions_and_engines_are_called(databases: None) -> None:
    async with session_scope() as session:
        await ROW.one_or_none(session, id=uuid4())
    called: list[str] = []
    engine = get_engine().sync_engine
    listeners: list[tuple[Any, str]] = [
        (engine, "do_execute"),  # first: `_has_events` stays set when a listener is removed
        (engine, "before_cursor_execute"),
        (engine, "commit"),
        (Session, "do_orm_execute"),
        (Session, "after_begin"),
        (Session, "after_commit"),
    ]
    for target, name in listeners:

        def record(*_: object, name: str = name, **__: object) -> None:
            called.append(name)

        event.listen(target, name, record)
        try:
            async with session_scope() as session:
                await ROW.one_or_none(session, id=uuid4())
        finally:
            event.remove(target, name, record)

    assert called == [name for _, name in listeners]


@pytest.mark.postgresql
async def test_listener_that_is_registered_before_the_first_connection_is_called(
    databases: None,
) -> None:
    called: list[str] = []
    event.listen(get_engine().sync_engine, "do_execute", lambda *args: called.append(args[1]))
    for count in (1, 2):
        async with session_scope() as session:
            await PID.one(session)
        assert len([one for one in called if "pg_backend_pid" in one]) == count


@pytest.mark.postgresql
async def test_execution_options_of_the_engine_apply(databases: None) -> None:
    engine = get_engine().sync_engine
    async with session_scope() as session:
        await session.execute(text("CREATE SCHEMA other"))
        await session.execute(text("CREATE TABLE other.users (LIKE public.users INCLUDING ALL)"))
    engine.update_execution_options(schema_translate_map={None: "other"})
    async with session_scope() as session:
        await INSERT.one(session, **user_values())
        count = text("SELECT count(*) FROM other.users")
        assert (await session.scalars(count)).one() == 1


@pytest.mark.postgresql
async def test_log_of_statements_has_them(
    databases: None, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.INFO, "sqlalchemy.engine"):
        async with session_scope() as session:
            await ROW.one_or_none(session, id=uuid4())
    assert "SELECT users.id" in caplog.text


@pytest.mark.postgresql
async def test_cancelled_statement_returns_its_connection_and_rolls_back(databases: None) -> None:
    async def insert_and_sleep() -> None:
        async with session_scope() as session:
            await INSERT.one(session, **user_values())
            pids.append((await PID.one(session))[0])
            await SLEEP.one(session, seconds=60)

    pids: list[int] = []
    task = asyncio.create_task(insert_and_sleep())
    await until(lambda: pids != [])
    await until_active(*pids)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task

    assert not checked_out()
    assert await stored_users() == 0


@pytest.mark.postgresql
async def test_task_that_outlives_its_session_gets_a_database_error(databases: None) -> None:
    for read_only in (False, True):
        with suppress(DBAPIError):  # COMMIT during a statement
            async with session_scope(read_only=read_only) as session:
                pid = (await PID.one(session))[0]
                task = asyncio.create_task(SLEEP.one(session, seconds=60))
                await until_active(pid)
        with pytest.raises(SQLAlchemyError):
            await task
        assert not checked_out()
        await kill(pid)


@pytest.mark.postgresql
async def test_task_that_connects_after_the_end_of_its_session_returns_the_connection(
    databases: None,
) -> None:
    async with session_scope() as session:
        tasks = [asyncio.create_task(PID.one(session)) for _ in range(2)]
        await asyncio.sleep(0)
    ended = await asyncio.gather(*tasks, return_exceptions=True)
    assert {type(error) for error in ended} == {InvalidRequestError}
    assert not checked_out()


@pytest.mark.postgresql
@pytest.mark.parametrize("continues", [True, False])
async def test_lost_connection_is_replaced_and_the_transaction_is_over(
    databases: None, continues: bool
) -> None:
    with pytest.raises(PendingRollbackError):
        async with session_scope() as session:
            await kill((await PID.one(session))[0])
            with pytest.raises(OperationalError):
                await PID.one(session)
            if continues:
                await PID.one(session)
    async with session_scope() as session:
        await PID.one(session)


@pytest.mark.postgresql
async def test_table_may_change_between_two_executions(databases: None) -> None:
    """A prepared statement of PostgreSQL is bound to the types of its columns."""
    statement = prepared(select(column("n")).select_from(text("changing")))
    await fetch("CREATE TABLE changing AS SELECT 1 AS n")
    async with session_scope() as session:
        assert (await statement.one(session)).n == 1
    await fetch("ALTER TABLE changing ALTER n TYPE text")

    with pytest.raises(DBAPIError, match="cached"):
        async with session_scope() as session:
            await statement.one(session)
    async with session_scope() as session:
        assert (await statement.one(session)).n == "1"


@pytest.mark.postgresql
async def test_statements_are_counted(app: FastAPI, client: AsyncClient) -> None:
    @app.get("/statements")
    async def count(session: SessionDep) -> list[float]:
        await PID.one(session)
        await PID.one(session)
        statistics = work.get()
        assert statistics
        return [statistics.statements, statistics.seconds]

    statements, seconds = (await client.get("/statements")).json()
    assert statements == 2
    assert seconds > 0


def test_statement_of_an_entity_is_refused() -> None:
    for statement in (select(User), insert(User), update(User), delete(User)):
        with pytest.raises(TypeError, match=r"use its table, User.__table__"):
            prepared(statement)


@pytest.mark.postgresql
async def test_statement_keeps_no_engine_alive(databases: None) -> None:
    async with session_scope() as session:
        await PID.one(session)
    dialect = ref(get_engine().dialect)
    del session
    await dispose_engines()
    collect_garbage()
    assert dialect() is None
