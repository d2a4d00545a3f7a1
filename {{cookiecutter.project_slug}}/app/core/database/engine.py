"""Engine construction shared by all databases. `postgresql/` and `sqlite.py` add the rest."""

from functools import partial
from typing import Any, cast

from pydantic_core import to_json
from sqlalchemy import Connection, event
from sqlalchemy.engine import ExceptionContext
from sqlalchemy.exc import OperationalError
from sqlalchemy.ext.asyncio import AsyncEngine, create_async_engine
from sqlalchemy.pool import ConnectionPoolEntry, NullPool

from app.core.database import postgresql, replica, sqlite
from app.core.database.errors import CommitOutcomeUnknownError, IdleTransactionError
from app.core.database.hidden_values import hide_stored_values, hide_values
from app.core.database.pool import FairPool
from app.core.database.settings import DatabaseSettings, EngineKey
from app.core.database.statistics import measure, work
from app.core.telemetry.spans import trace_statements

DRIVER_LOST = "08"  # the class of SQLSTATEs with which asyncpg itself reports a lost connection
DRIVERS = {"asyncpg": postgresql, "aiosqlite": sqlite}


def make_engine(key: EngineKey, settings: DatabaseSettings) -> AsyncEngine:
    """Return a new engine for sessions. It connects when a session needs a connection."""
    pool: dict[str, Any] = {
        "poolclass": FairPool,
        "pool_logging_name": settings.name,
        "pool_size": settings.pool_size,
        "max_overflow": settings.max_overflow,
        "pool_timeout": settings.pool_timeout,
        "pool_recycle": settings.pool_recycle or -1,
    }
    if sqlite.is_in_memory(key.url):  # a database in memory is its one connection
        pool |= {"pool_size": 1, "max_overflow": 0, "pool_recycle": -1}
        # The session has already rolled back. A cancelled second rollback would close the
        # connection and lose the database.
        pool["pool_reset_on_return"] = None
    engine = _make(key, settings, **pool)
    sessions = cast("FairPool", engine.pool)
    sessions.own_listeners = sessions.count_listeners()
    return engine


def make_probe_engine(settings: DatabaseSettings) -> AsyncEngine:
    """Return an engine for probes: one read-only connection that requests do not use."""
    single = settings.model_copy(update={"pool_size": 1, "max_overflow": 0})
    return make_engine(EngineKey(settings.url(), read_only=True), single)


def make_migration_engine(settings: DatabaseSettings) -> AsyncEngine:
    """Return an engine for DDL: no timeout for statements and COMMIT; past PgBouncer with MIGRATION_DATABASE_URL."""
    changes = {"statement_timeout": 0, "commit_timeout": 0, "idle_in_transaction_timeout": 0}
    if settings.migration_database_url is not None:
        changes["pgbouncer"] = False
    url = settings.migration_url()
    engine = _make(EngineKey(url), settings.model_copy(update=changes), poolclass=NullPool)
    if url.get_backend_name() == "sqlite":
        event.listen(engine.sync_engine, "connect", sqlite.ignore_foreign_keys)
    return engine


async def dispose(engine: AsyncEngine) -> None:
    """Close the idle connections of the engine now, and the others when they are returned."""
    pool = engine.pool

    def close_on_return(_: Any, record: ConnectionPoolEntry) -> None:
        if engine.pool is not pool:
            record.invalidate()

    event.listen(pool, "checkin", close_on_return)
    await engine.dispose()


def _make(key: EngineKey, settings: DatabaseSettings, **pool: Any) -> AsyncEngine:
    driver = DRIVERS.get(key.url.get_driver_name())
    if driver:
        options = driver.engine_options(key.url, settings, read_only=key.read_only)
    else:  # an async driver of another database
        options = {"pool_pre_ping": True}
    # Parameters may contain personal data, which error messages must not show.
    engine = create_async_engine(
        key.url, hide_parameters=True, json_serializer=_to_json, **options, **pool
    )
    event.listen(engine.sync_engine, "handle_error", hide_values)
    hide_stored_values(engine.dialect)
    if key.fallback and driver is postgresql:
        # Before the driver's own listeners: SQLAlchemy uses the first listener that returns a connection.
        there = driver.engine_options(key.fallback, settings, read_only=True)
        replica.fall_back(engine.sync_engine, key.fallback, there["connect_args"])
    if driver:
        driver.add_listeners(engine.sync_engine, settings, read_only=key.read_only)
    idle = None if key.read_only else settings.idle_in_transaction_timeout
    event.listen(engine.sync_engine, "handle_error", partial(_translate_loss, idle))
    event.listen(engine.sync_engine, "handle_error", partial(_name_database, settings.name))
    measure(engine.sync_engine)
    trace_statements(engine.sync_engine, settings.name)
    return engine


def _to_json(value: object) -> str:
    return to_json(value).decode()  # seven times as fast as json.dumps


def _translate_loss(idle_timeout: float | None, context: ExceptionContext) -> Exception | None:
    """Turn the loss of a connection into an `OperationalError`, whatever the driver raises.

    asyncpg discards the message by which PostgreSQL ends a transaction, unless a statement runs.
    """
    error = context.original_exception
    lost = isinstance(error, OSError) or (context.is_disconnect and isinstance(error, Exception))
    if not lost:
        return None
    if idle_timeout and _was_idle(error, context.connection, idle_timeout):
        error = IdleTransactionError(f"IDLE_IN_TRANSACTION_TIMEOUT={idle_timeout:g} was exceeded")
    elif isinstance(context.sqlalchemy_exception, OperationalError):
        return None
    return OperationalError(
        context.statement, None, error, hide_parameters=True, connection_invalidated=True
    )


def _was_idle(error: BaseException, connection: Connection | None, timeout: float) -> bool:
    if isinstance(error, CommitOutcomeUnknownError):
        return False
    cause: BaseException | None = error
    while cause:
        code = getattr(cause, "sqlstate", None) or DRIVER_LOST
        if not code.startswith(DRIVER_LOST):  # PostgreSQL has said why
            return bool(code == IdleTransactionError.sqlstate)
        cause = cause.__cause__
    done = work.get()
    return done is not None and done.is_idle(connection, timeout)


def _name_database(name: str, context: ExceptionContext) -> None:
    chained = getattr(context, "chained_exception", None)  # by the listener before
    error = chained or context.sqlalchemy_exception or context.original_exception
    error.add_note(f"database: {name}")
