"""Guards: every private API in docs/private-apis.md still exists in the installed libraries.

Each check uses the library itself, through real objects. This file imports nothing private at its
top, so that a missing name fails the test of that name.
"""

import ast
import asyncio
import logging.handlers
import signal
from collections.abc import Awaitable, Callable
from functools import cache, partial
from importlib import import_module
from inspect import signature
from pathlib import Path
from typing import Annotated, Any, NamedTuple

import aiosqlite
import asyncpg
import fastapi.openapi.docs
import pydantic_core
import pytest
import sqlalchemy
import uvicorn
from alembic.operations import Operations
from alembic.runtime.migration import MigrationContext
from fastapi import APIRouter, Depends, FastAPI, Request, Response
from httpx2 import ASGITransport, AsyncClient
from sqlalchemy import (
    Column,
    Connection,
    ForeignKey,
    Integer,
    MetaData,
    Table,
    bindparam,
    create_engine,
    event,
    insert,
    literal,
    select,
    text,
)
from sqlalchemy.exc import DBAPIError, OperationalError
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncSession, create_async_engine
from sqlalchemy.orm import DeclarativeBase, Mapped, Session, mapped_column, relationship
from sqlalchemy.schema import CreateTable
from starlette.types import Receive, Scope, Send

from app.core.database.pool import FairQueue
from app.core.db import get_engine
from tests.support import until

ROOT = Path(__file__).parents[3]
APP = ROOT / "app"
PAGE = "docs/private-apis.md"

DOCUMENTED = {"_fields"}  # Row._fields

Check = Callable[..., Awaitable[bool]]


class PrivateApi(NamedTuple):
    name: str  # as on the page
    used_as: str  # a part of the line in app/ that uses it
    check: Check  # returns True while the API exists

    @property
    def files(self) -> list[str]:
        """The files that use it."""
        files = [path for path in APP.rglob("*.py") if self.used_as in path.read_text()]
        return sorted(path.relative_to(ROOT).as_posix() for path in files)

    def __str__(self) -> str:
        return self.name

    async def verify(self, *arguments: AsyncConnection) -> None:
        cause: BaseException | None = None
        try:
            exists = await self.check(*arguments)
        except (Exception, pytest.fail.Exception) as error:
            exists, cause = False, error
        if not exists:
            files = ", ".join(self.files)
            raise AssertionError(
                f"{self} was removed or has changed: see {PAGE} and {files}"
            ) from cause


PLAIN: list[PrivateApi] = []
ON_SQLITE: list[PrivateApi] = []  # these checks get a connection
ON_POSTGRESQL: list[PrivateApi] = []


def guard(apis: list[PrivateApi], name: str, *, used_as: str) -> Callable[[Check], Check]:
    """Add a check to one of the tables."""

    def add(check: Check) -> Check:
        apis.append(PrivateApi(name, used_as, check))
        return check

    return add


async def adapter_of(connection: AsyncConnection) -> Any:
    """Return SQLAlchemy's adapter around the driver's connection."""
    return (await connection.get_raw_connection()).dbapi_connection


async def driver_of(connection: AsyncConnection) -> Any:
    return (await connection.get_raw_connection()).driver_connection


# SQLAlchemy


@guard(ON_SQLITE, "sqlalchemy.util.await_", used_as="import await_")
async def await_runs_a_coroutine(connection: AsyncConnection) -> bool:
    def wait(_: object) -> str:
        return str(import_module("sqlalchemy.util").await_(asyncio.sleep(0, "result")))

    return await connection.run_sync(wait) == "result"


@guard(
    PLAIN,
    "sqlalchemy.util.queue.AsyncAdaptedQueue, Empty, Full",
    used_as="AsyncAdaptedQueue, Empty, Full",
)
async def queue_gives_back_and_raises_empty() -> bool:
    module: Any = import_module("sqlalchemy.util.queue")
    queue = module.AsyncAdaptedQueue(1)
    queue.put_nowait("item")
    assert queue.get_nowait() == "item"
    with pytest.raises(module.Empty):
        queue.get(block=False)
    return issubclass(module.Full, Exception) and bool(queue.empty())


@guard(ON_SQLITE, "AsyncAdaptedQueuePool._queue_class, _pool", used_as="_queue_class = ")
async def pool_has_the_queue_of_its_class(_: AsyncConnection) -> bool:
    pool: Any = get_engine().pool
    return isinstance(pool._pool, FairQueue)


@guard(
    ON_SQLITE, "QueuePool.size(), checkedin(), checkedout(), overflow()", used_as="pool.overflow()"
)
async def pool_counts_its_connections(_: AsyncConnection) -> bool:
    pool: Any = get_engine().pool
    counts = (pool.checkedout(), pool.checkedin(), pool.overflow())
    return counts == (1, 0, 1 - pool.size())


@guard(PLAIN, "sqlalchemy.util.greenlet_spawn, concurrency.in_greenlet", used_as="greenlet_spawn")
async def function_runs_in_a_greenlet() -> bool:
    util: Any = import_module("sqlalchemy.util")
    in_greenlet = util.concurrency.in_greenlet
    return bool(await util.greenlet_spawn(in_greenlet) and not in_greenlet())


@guard(
    ON_POSTGRESQL,
    "AsyncAdapt_asyncpg_cursor._prepare_and_execute",
    used_as='"_prepare_and_execute"',
)
async def cursor_executes_without_a_greenlet(connection: AsyncConnection) -> bool:
    cursor = (await adapter_of(connection)).cursor()
    await cursor._prepare_and_execute("SELECT $1::int", [7])
    return bool(cursor.fetchall() == [(7,)] and cursor.description[0][0] == "int4")


@guard(
    ON_POSTGRESQL,
    "_invalidate_schema_cache_asof of a dialect and its cursors",
    used_as="._invalidate_schema_cache_asof",
)
async def ddl_invalidates_the_caches_of_cursors(connection: AsyncConnection) -> bool:
    dialect: Any = connection.dialect
    before = dialect._invalidate_schema_cache_asof
    await connection.execute(CreateTable(Table("numbers", MetaData(), Column("n", Integer))))
    await connection.rollback()
    cursor = (await adapter_of(connection)).cursor()
    return bool(
        dialect._invalidate_schema_cache_asof > before and cursor._invalidate_schema_cache_asof == 0
    )


@guard(
    PLAIN,
    "AsyncSession creates sync_session and _proxied in its constructor",
    used_as='"sync_session", "_proxied"',
)
async def session_is_created_in_the_constructor() -> bool:
    return {"sync_session", "_proxied"} <= vars(AsyncSession()).keys()


@guard(PLAIN, "Session.bind with a connect() of its own", used_as="session.bind = engine")
async def session_begins_on_the_connection_that_its_bind_returns() -> bool:
    connection = create_engine("sqlite://").connect()

    class Bind:
        def connect(self) -> Connection:
            return connection

    bind: Any = Bind()
    session = Session(connection.engine)
    engine, session.bind = session.bind, bind
    begun = session.connection()
    session.bind = engine
    session.execute(text("SELECT 1"))
    session.commit()
    return begun is connection and connection.closed


@guard(PLAIN, "Engine._has_events, Session.dispatch", used_as="engine._has_events")
async def listeners_are_found() -> bool:
    engine = create_engine("sqlite://")
    session = Session()
    before, listeners = engine._has_events, len(session.dispatch.after_begin)
    event.listen(engine, "commit", lambda _: None)
    event.listen(session, "after_begin", lambda *_: None)
    found = len(session.dispatch.after_begin) - listeners
    return (before, engine._has_events, found) == (False, True, 1)


@guard(
    PLAIN,
    "SQLCompiler.insert_prefetch, update_prefetch, binds, _result_columns, _ordered_columns",
    used_as="compiled.insert_prefetch",
)
async def compiled_statement_has_its_values() -> bool:
    column = Column("n", Integer, key="k", default=1)
    table = Table("t", MetaData(), column, Column("m", Integer))
    compiled: Any = insert(table).returning(column).compile(column_keys=["m"])
    [returned] = compiled._result_columns
    assert compiled._ordered_columns
    assert (returned.name, returned.keyname, returned.type) == ("n", "n", column.type)
    assert {column, "k"} <= {*returned.objects}
    assert not compiled.update_prefetch
    return compiled.insert_prefetch == [column] and {*compiled.binds} == {"k", "m"}


@guard(PLAIN, "sqlalchemy.engine.result.SimpleResultMetaData", used_as="SimpleResultMetaData")
async def result_has_the_names_of_its_columns() -> bool:
    result: Any = import_module("sqlalchemy.engine.result")
    rows = result.IteratorResult(result.SimpleResultMetaData(["n"]), iter([(1,)]))
    return bool(rows.one().n == 1)


@guard(ON_POSTGRESQL, "AsyncAdapt_asyncpg_connection._transaction", used_as="adapter._transaction")
async def transaction_is_that_of_asyncpg(connection: AsyncConnection) -> bool:
    await connection.execute(text("SELECT 1"))
    adapter = await adapter_of(connection)
    transaction, adapter._transaction = adapter._transaction, None
    await transaction.commit()
    await connection.commit()  # sends nothing: asyncpg would refuse a second COMMIT
    return isinstance(transaction, asyncpg.transaction.Transaction)


@guard(ON_POSTGRESQL, "AsyncAdapt_dbapi_connection._execute_mutex", used_as="._execute_mutex")
async def mutex_is_locked_during_a_statement(connection: AsyncConnection) -> bool:
    mutex: asyncio.Lock = (await adapter_of(connection))._execute_mutex
    assert not mutex.locked()
    statement = asyncio.create_task(connection.execute(text("SELECT pg_sleep(0.1)")))
    await until(lambda: mutex.locked() or statement.done())
    was_locked = mutex.locked()
    await statement
    return was_locked


@guard(ON_POSTGRESQL, "AsyncAdapt_asyncpg_ss_cursor._cursor", used_as="._cursor")
async def stream_fetches_from_the_cursor_of_the_driver(connection: AsyncConnection) -> bool:
    cursor = (await adapter_of(connection)).cursor(server_side=True)
    await connection.run_sync(lambda _: cursor.execute("SELECT 1"))
    assert cursor.server_side
    rows = await cursor._cursor.fetch(10)
    cursor.close()
    return [tuple(row) for row in rows] == [(1,)] and cursor._cursor is None


async def translated(connection: AsyncConnection, error: Exception) -> Any:
    """Return the error that SQLAlchemy's adapter makes of one of asyncpg's."""
    adapter = await adapter_of(connection)
    base: Any = connection.dialect.loaded_dbapi.Error
    with pytest.raises(base) as caught:
        adapter._handle_exception(error)
    return caught.value


@guard(ON_POSTGRESQL, "AsyncAdapt_dbapi_connection._handle_exception", used_as="._handle_exception")
async def adapter_translates_an_error(connection: AsyncConnection) -> bool:
    error: Any = asyncpg.UniqueViolationError("message")
    return bool((await translated(connection, error)).sqlstate == error.sqlstate)


@guard(ON_POSTGRESQL, "DBAPIError.instance", used_as="DBAPIError.instance")
async def instance_wraps_an_error(connection: AsyncConnection) -> bool:
    error = await translated(connection, asyncpg.UniqueViolationError("message"))
    base: Any = connection.dialect.loaded_dbapi.Error
    made: Any = DBAPIError.instance(
        "SELECT 1", None, error, base, hide_parameters=True, dialect=connection.dialect
    )
    return isinstance(made, DBAPIError) and made.orig is error


@guard(
    ON_POSTGRESQL,
    "AsyncAdapt_asyncpg_dbapi.InvalidCachedStatementError",
    used_as="InvalidCachedStatementError",
)
async def cached_statement_error_has_its_name(connection: AsyncConnection) -> bool:
    error = await translated(connection, asyncpg.InvalidCachedStatementError("message"))
    return type(error).__name__ == "InvalidCachedStatementError"


@guard(ON_POSTGRESQL, "DBAPIError.orig.__cause__", used_as="error.__cause__")
async def error_of_the_adapter_has_a_cause(connection: AsyncConnection) -> bool:
    with pytest.raises(DBAPIError) as caught:
        await connection.execute(text("SELECT 1 / 0"))
    assert caught.value.orig
    return isinstance(caught.value.orig.__cause__, asyncpg.PostgresError)


@guard(
    PLAIN,
    "OperationalError(hide_parameters=, connection_invalidated=)",
    used_as="connection_invalidated=True",
)
async def operational_error_takes_its_options() -> bool:
    error = OperationalError(
        "SELECT 1", None, OSError("lost"), hide_parameters=True, connection_invalidated=True
    )
    return error.connection_invalidated and error.hide_parameters


METHODS = ("do_execute", "do_executemany", "do_execute_no_params")


@guard(
    ON_SQLITE,
    "Dialect.do_execute, do_executemany, do_execute_no_params set on an instance",
    used_as="setattr(engine.dialect",
)
async def dialect_is_asked_for_its_method_each_time(connection: AsyncConnection) -> bool:
    dialect: Any = connection.dialect
    called: set[str] = set()

    def record(name: str, run: Callable[..., None], *arguments: object, **options: object) -> None:
        called.add(name)
        run(*arguments, **options)

    with pytest.MonkeyPatch.context() as patch:
        for name in METHODS:
            patch.setattr(dialect, name, partial(record, name, getattr(dialect, name)))
        await connection.execute(text("CREATE TABLE numbers (n INTEGER)"))
        await connection.execute(text("INSERT INTO numbers VALUES (:n)"), [{"n": 1}, {"n": 2}])
        unformatted = await connection.execution_options(no_parameters=True)
        await unformatted.exec_driver_sql("SELECT 1")
    return called == {*METHODS}


@guard(
    ON_POSTGRESQL,
    "Dialect.execution_ctx_cls set on an instance, its _init_compiled(); ischema_names",
    used_as="dialect.execution_ctx_cls = ",
)
async def dialect_is_asked_for_its_context_each_time(connection: AsyncConnection) -> bool:
    dialect: Any = connection.dialect
    columns: list[str] = []

    class Recorder(dialect.execution_ctx_cls):  # type: ignore[misc]
        def get_result_processor(self, type_: Any, column: str, driver_type: Any) -> Any:
            columns.append(column)
            return super().get_result_processor(type_, column, driver_type)

        @classmethod
        def _init_compiled(cls, *args: Any, **options: Any) -> Any:
            *_, compiled, rows, _, extracted = args
            values.append(compiled.construct_params(rows[0], extracted))
            return super()._init_compiled(*args, **options)

    values: list[dict[str, Any]] = []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(dialect, "execution_ctx_cls", Recorder)
        statement = select(literal(1).label("one"), bindparam("n", type_=Integer).label("two"))
        await connection.execute(statement, {"n": 2})
    assert values == [{"param_1": 1, "n": 2}]
    return columns == ["one", "two"] and "integer" in dialect.ischema_names


@guard(
    ON_POSTGRESQL,
    "Session.close() outside a greenlet, in AUTOCOMMIT",
    used_as="class TrackedSession",
)
async def session_closes_outside_a_greenlet(_: AsyncConnection) -> bool:
    engine = get_engine(read_only=True)
    session = AsyncSession(engine)
    await session.execute(text("SELECT 1"))
    session.sync_session.close()
    pool: Any = engine.pool
    return bool(pool.checkedout() == 0)


@guard(PLAIN, "TypeEngine._variant_mapping", used_as="._variant_mapping")
async def type_has_its_variants() -> bool:
    of: Any = sqlalchemy.JSON().with_variant(sqlalchemy.String(), "sqlite")
    return [*of._variant_mapping] == ["sqlite"]


@guard(PLAIN, "RelationshipProperty.lazy", used_as="relationship.lazy")
async def relationship_tells_its_loading() -> bool:
    class Base(DeclarativeBase):
        pass

    class Node(Base):
        __tablename__ = "nodes"
        id: Mapped[int] = mapped_column(primary_key=True)
        parent_id: Mapped[int] = mapped_column(ForeignKey("nodes.id"))
        parent: Mapped[Any] = relationship("Node", lazy="raise")

    try:
        return bool(sqlalchemy.inspect(Node).relationships["parent"].lazy == "raise")
    finally:
        Base.registry.dispose()


# Alembic


@guard(
    ON_SQLITE,
    "ApplyBatchImpl.columns, column_transfers, indexes, reflected, BatchOperationsImpl.copy_from",
    used_as="batch_impl.column_transfers",
)
async def batch_copies_a_table_with_a_generated_column(connection: AsyncConnection) -> bool:
    import_module("app.migrations.sqlite")

    def change(on: Connection) -> bool:
        on.execute(text("CREATE TABLE numbers (id INTEGER, twice INTEGER AS (id * 2) STORED)"))
        on.execute(text("INSERT INTO numbers VALUES (1)"))
        on.execute(text("CREATE INDEX old ON numbers (twice)"))
        on.execute(text("CREATE INDEX kept ON numbers (id DESC)"))
        operations = Operations(MigrationContext.configure(on))
        with operations.batch_alter_table("numbers") as numbers:
            numbers.alter_column("id", nullable=False)
            numbers.drop_index("old")
        sql = on.scalar(text("SELECT sql FROM sqlite_master WHERE name = 'kept'"))
        return bool("DESC" in str(sql) and on.scalar(text("SELECT twice FROM numbers")) == 2)

    return await connection.run_sync(change)


# asyncpg


@guard(ON_POSTGRESQL, "asyncpg.Connection._transport", used_as="._transport")
async def connection_has_a_transport(connection: AsyncConnection) -> bool:
    driver: Any = await driver_of(connection)
    return bool(driver._transport.get_extra_info("socket").fileno() > 0)


@guard(ON_POSTGRESQL, "asyncpg.Transaction calls Connection.execute", used_as='"COMMIT"')
async def transaction_uses_execute(_: AsyncConnection) -> bool:
    queries: list[str] = []

    class Recorder(asyncpg.Connection):  # type: ignore[misc]
        async def execute(self, query: str, *args: Any, **options: Any) -> str:
            queries.append(query)
            return str(await super().execute(query, *args, **options))

    engine = create_async_engine(get_engine().url, connect_args={"connection_class": Recorder})
    async with engine.begin() as connection:
        await connection.execute(text("SELECT 1"))
    await engine.dispose()
    return [query.partition(" ")[0].strip(";") for query in queries[-2:]] == ["BEGIN", "COMMIT"]


@guard(
    ON_POSTGRESQL,
    "asyncpg.Connection._cancel_current_command",
    used_as="def _cancel_current_command",
)
async def cancelled_statement_requests_to_cancel_it(_: AsyncConnection) -> bool:
    requested: list[str] = []

    class Recorder(asyncpg.Connection):  # type: ignore[misc]
        def _cancel_current_command(self, sent: asyncio.Future[None], *_: Any) -> None:
            requested.append("sent")
            sent.set_result(None)

    engine = create_async_engine(get_engine().url, connect_args={"connection_class": Recorder})
    async with engine.connect() as connection:
        driver = await driver_of(connection)
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(driver.execute("SELECT pg_sleep(0.2)"), 0.05)
        await driver.execute("SELECT 1")  # it waits for the response to the cancelled statement
    await engine.dispose()
    return requested == ["sent"]


@guard(
    ON_POSTGRESQL,
    "asyncpg's exceptions, PostgresError.detail, severity and sqlstate",
    used_as="asyncpg.PostgresError",
)
async def errors_have_their_classes_and_fields(connection: AsyncConnection) -> bool:
    driver: Any = await driver_of(connection)
    assert issubclass(asyncpg.DataError, asyncpg.PostgresError)
    assert issubclass(asyncpg.InterfaceError, Exception)
    assert issubclass(asyncpg.TargetServerAttributeNotMatched, Exception)
    with pytest.raises(asyncpg.PostgresError) as caught:
        await driver.execute("DO $$ BEGIN RAISE 'message' USING DETAIL = 'a row'; END $$")
    error: Any = caught.value
    fields = (error.sqlstate, error.detail, error.args[0], error.server_source_function)
    assert error.severity
    assert not asyncpg.DataError("of asyncpg").severity
    return fields == ("P0001", "a row", "message", "exec_stmt_raise")


# aiosqlite


@guard(PLAIN, "aiosqlite.Connection.stop called by close()", used_as="driver.stop")
async def close_calls_stop_of_the_object() -> bool:
    connection: Any = await aiosqlite.connect(":memory:")
    connection.stop = stop = cache(connection.stop)
    await connection.close()
    return stop.cache_info().misses == 1


@guard(
    ON_SQLITE,
    "aiosqlite.Connection.rollback called by SQLAlchemy",
    used_as="driver.rollback = ",
)
async def rollback_calls_that_of_the_driver(connection: AsyncConnection) -> bool:
    driver = await driver_of(connection)
    roll_back, called = driver.rollback, []

    async def recorded() -> None:
        called.append("rollback")
        await roll_back()

    driver.rollback = recorded
    await connection.execute(text("SELECT 1"))
    await connection.rollback()
    return called == ["rollback"]


# FastAPI


@guard(
    PLAIN,
    "fastapi.routing.iter_route_contexts, dependant of a route",
    used_as="import iter_route_contexts",
)
async def routes_show_their_dependencies() -> bool:
    async def dependency() -> None:
        """Return nothing."""

    router = APIRouter()
    router.get("/", dependencies=[Depends(dependency)])(dependency)
    app = FastAPI()
    app.include_router(router)
    contexts: Any = import_module("fastapi.routing").iter_route_contexts(app.routes)
    found = [getattr(context, "dependant", None) for context in contexts]
    return [d.dependencies[0].call for d in found if d and d.dependencies] == [dependency]


async def scope_after(path: str) -> Scope:
    """Return the scope of a request after FastAPI has routed it."""
    scopes: list[Scope] = []

    async def read() -> None:
        """Return nothing."""

    app = FastAPI()
    router = APIRouter(prefix="/inner")
    router.get("/{item}")(read)
    app.include_router(router, prefix="/outer")
    app.get("/direct/{item}")(read)

    async def recorded(scope: Scope, receive: Receive, send: Send) -> None:
        scopes.append(scope)
        await app(scope, receive, send)

    async with AsyncClient(transport=ASGITransport(recorded), base_url="http://test") as client:
        assert (await client.get(path)).status_code == 200
    return scopes[0]


@guard(PLAIN, 'scope["fastapi"]["effective_route_context"].path', used_as="effective_route_context")
async def scope_has_the_route_with_its_prefixes() -> bool:
    scope = await scope_after("/outer/inner/1")
    return bool(scope["fastapi"]["effective_route_context"].path == "/outer/inner/{item}")


@guard(PLAIN, 'scope["route"].path', used_as='scope.get("route")')
async def scope_has_the_route() -> bool:
    return bool((await scope_after("/direct/1"))["route"].path == "/direct/{item}")


@guard(
    PLAIN,
    "FastAPI.swagger_ui_parameters, swagger_ui_init_oauth",
    used_as="app.swagger_ui_parameters",
)
async def app_keeps_the_parameters_of_its_page() -> bool:
    parameters: dict[str, Any] = {"deepLinking": False}
    oauth: dict[str, Any] = {"clientId": "client"}
    app = FastAPI(swagger_ui_parameters=parameters, swagger_ui_init_oauth=oauth)
    return (app.swagger_ui_parameters, app.swagger_ui_init_oauth) == (parameters, oauth)


@guard(PLAIN, "get_swagger_ui_html() has one inline script", used_as='rpartition(b"<script>")')
async def page_ends_with_its_only_inline_script() -> bool:
    page = fastapi.openapi.docs.get_swagger_ui_html(openapi_url="/openapi.json", title="title")
    body = bytes(page.body)
    script = body.rpartition(b"<script>")[2].partition(b"</script>")[0]
    return body.count(b"<script>") == 1 and b"SwaggerUIBundle(" in script


@guard(
    PLAIN,
    'scope["fastapi_function_astack"], __wrapped__ of a dependency',
    used_as='"fastapi_function_astack"',
)
async def wrapped_dependency_is_awaited_and_has_a_stack() -> bool:
    class Dependency:
        def __init__(self) -> None:
            async def wrapped(request: Request) -> str:
                request.scope["fastapi_function_astack"].callback(ended.append, True)
                return "wrapped"

            self.__wrapped__ = wrapped

        def __call__(self, request: Request) -> Any:
            return self.__wrapped__(request)

    ended: list[bool] = []
    app = FastAPI()

    @app.get("/")
    async def route(value: Annotated[str, Depends(Dependency(), scope="function")]) -> list[Any]:
        return [value, *ended]

    async with AsyncClient(transport=ASGITransport(app), base_url="http://test") as client:
        return (await client.get("/")).json() == ["wrapped"] and ended == [True]


@guard(
    PLAIN,
    "FastAPI.exception_handlers, changed before the first request; build_middleware_stack()",
    used_as="mounted.exception_handlers",
)
async def handlers_are_used_from_the_first_request_on() -> bool:
    class Application(FastAPI):
        def build_middleware_stack(self) -> Any:
            self.exception_handlers[404] = lambda *_: Response(status_code=418)
            return super().build_middleware_stack()

    app = Application()
    async with AsyncClient(transport=ASGITransport(app), base_url="http://test") as client:
        return (await client.get("/")).status_code == 418


# uvicorn


async def serve_until_sigterm() -> list[int]:
    """Stop a server with the SIGTERM handler that its lifespan finds. Return the signals it raises."""
    received: list[int] = []

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        assert scope["type"] == "lifespan"
        await receive()
        stop: Any = signal.getsignal(signal.SIGTERM)
        asyncio.get_running_loop().call_soon(stop, signal.SIGTERM, None)
        await send({"type": "lifespan.startup.complete"})
        await receive()
        await send({"type": "lifespan.shutdown.complete"})

    before = signal.signal(signal.SIGTERM, lambda number, _: received.append(number))
    try:
        config = uvicorn.Config(app, port=0, log_config=None, log_level="info")
        async with asyncio.timeout(10):
            await uvicorn.Server(config).serve()
    finally:
        signal.signal(signal.SIGTERM, before)
    return received


@guard(
    PLAIN,
    "uvicorn handles SIGTERM with signal.signal() before startup, and raises it again",
    used_as="signal.getsignal(signal.SIGTERM)",
)
async def server_handles_sigterm_and_repeats_it() -> bool:
    return await serve_until_sigterm() == [signal.SIGTERM]


@guard(PLAIN, "LogRecord.color_message of uvicorn", used_as="color_message")
async def log_has_a_message_in_colour() -> bool:
    logger = logging.getLogger("uvicorn.error")
    handler = logging.handlers.BufferingHandler(capacity=100)
    logger.addHandler(handler)
    try:
        await serve_until_sigterm()
    finally:
        logger.removeHandler(handler)
    return any(hasattr(record, "color_message") for record in handler.buffer)


@guard(
    PLAIN,
    "HttpToolsProtocol: its callbacks, attributes and send_400_response(), and the attributes of its requests",
    used_as="class RequestLimitsProtocol(HttpToolsProtocol)",
)
async def protocol_of_the_server_can_be_extended() -> bool:
    """That uvicorn calls them is tested by tests/conformance/core/process/test_server.py."""
    http = import_module("uvicorn.protocols.http.httptools_impl")
    flow = import_module("uvicorn.protocols.http.flow_control")
    names = {
        *("connection_made", "connection_lost", "data_received", "timeout_keep_alive_handler"),
        *("on_message_begin", "on_headers_complete", "on_body", "on_message_complete"),
        *("send_400_response", "_start_asgi_task"),
    }
    used = {name for name in names if callable(getattr(http.HttpToolsProtocol, name, None))}
    return used == names and callable(flow.service_unavailable)


@guard(PLAIN, "uvicorn.supervisors.ChangeReload, Multiprocess", used_as="uvicorn.supervisors")
async def supervisors_take_sockets() -> bool:
    supervisors = import_module("uvicorn.supervisors")
    classes = (supervisors.ChangeReload, supervisors.Multiprocess)
    return all("sockets" in signature(each).parameters for each in classes)


# Pydantic


@guard(PLAIN, 'PydanticSerializationError contains "depth"', used_as='"depth" in str(error)')
async def error_of_deep_json_says_depth() -> bool:
    deep: list[Any] = []
    for _ in range(1000):
        deep = [deep]
    with pytest.raises(pydantic_core.PydanticSerializationError, match="depth"):
        pydantic_core.to_json(deep)
    return True


# The tests


@pytest.mark.parametrize("api", PLAIN, ids=str)
async def test_private_api_exists(api: PrivateApi) -> None:
    await api.verify()


async def verify_all(apis: list[PrivateApi]) -> None:
    """Verify each API on a new connection; raise the errors of all of them together."""
    errors: list[AssertionError] = []
    for api in apis:
        async with get_engine().connect() as connection:
            try:
                await api.verify(connection)
            except AssertionError as error:
                errors.append(error)
    if errors:
        raise ExceptionGroup(f"{len(errors)} private APIs", errors)


@pytest.mark.sqlite
async def test_private_apis_exist_on_sqlite(databases: None) -> None:
    await verify_all(ON_SQLITE)


@pytest.mark.postgresql
async def test_private_apis_exist_on_postgresql(databases: None) -> None:
    await verify_all(ON_POSTGRESQL)


def test_every_private_attribute_in_app_is_in_the_table() -> None:
    used: dict[str, str] = {}
    own: set[str] = set()
    for path in APP.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            match node:
                case ast.Attribute(attr=name, ctx=ast.Load()):
                    used[name] = path.name
                case ast.Attribute(attr=name) | ast.Name(id=name, ctx=ast.Store()):
                    own.add(name)
                case ast.FunctionDef(name=name) | ast.AsyncFunctionDef(name=name):
                    own.add(name)
    private = {name for name in used if name.startswith("_") and not name.endswith("__")}
    names = " ".join(api.name for api in (*PLAIN, *ON_SQLITE, *ON_POSTGRESQL))
    listed = {name for name in private if name in names}

    unlisted = {f"{used[name]}: {name}" for name in private - own - listed - DOCUMENTED}
    assert not unlisted, f"private attributes of a library that are not in {PAGE}"
