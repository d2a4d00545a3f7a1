"""What PostgreSQL needs, through asyncpg: an honest COMMIT, limits on the server, no stale connection."""

import asyncio
import math
import re
import selectors
import socket
from contextlib import suppress
from functools import partial
from time import monotonic
from typing import Any, NamedTuple, cast

import asyncpg
from sqlalchemy import URL, Connection, Engine, event
from sqlalchemy.engine import Dialect, ExceptionContext, ExecutionContext
from sqlalchemy.exc import DBAPIError, InvalidatePoolError
from sqlalchemy.pool import AsyncAdaptedQueuePool, ConnectionPoolEntry
from sqlalchemy.util import await_only

from app.core.database.errors import TransactionFailedError
from app.core.database.libpq import give_types
from app.core.database.settings import DatabaseSettings
from app.core.database.statistics import work

IDLE_BEFORE_PING = 1.0  # seconds
PING_TIMEOUT = 2.0  # seconds
READ_ONLY_SQLSTATE = "25006"
PING = "SELECT 1"  # an empty one is an AttributeError in asyncpg 0.32

# Neither needs a descriptor of its own, as epoll does. Windows has no poll.
Selector = getattr(selectors, "PollSelector", selectors.SelectSelector)


class CommitCheckingConnection(asyncpg.Connection):  # type: ignore[misc]
    """A connection whose COMMIT fails where the server answers it with ROLLBACK.

    PostgreSQL does that when a statement of the transaction has failed, and asyncpg and SQLAlchemy
    say nothing: what was written is lost, and looks committed.
    """

    async def execute(self, query: str, *args: Any, **options: Any) -> str:
        if not query.upper().startswith("COMMIT"):
            return str(await super().execute(query, *args, **options))
        began = monotonic()
        try:
            status: str = await super().execute(query, *args, **options)
        finally:
            if done := work.get():
                done.seconds += monotonic() - began
        if status == "ROLLBACK":
            raise TransactionFailedError
        return status


def with_limits(limits: dict[str, str]) -> type[CommitCheckingConnection]:
    """Return a class of connections that set these limits anew in each transaction.

    They travel in the message that begins it, and cost no round trip of their own.
    """
    settings = "".join(f" SET LOCAL {name} = {value};" for name, value in limits.items())

    class LimitedConnection(CommitCheckingConnection):
        async def execute(self, query: str, *args: Any, **options: Any) -> str:
            if query.startswith("BEGIN"):
                query += settings
            return await super().execute(query, *args, **options)

    return LimitedConnection


def engine_options(url: URL, settings: DatabaseSettings, *, read_only: bool) -> dict[str, Any]:
    """Return what `create_async_engine` is to be called with beside the URL and the pool.

    What the URL says of the same goes before the settings.
    """
    server = {} if settings.pgbouncer else _timeouts(settings) | _keepalives(settings)
    arguments: dict[str, Any] = {
        "connection_class": CommitCheckingConnection,
        "server_settings": server,
        "timeout": float(cast("str", url.query.get("timeout", settings.connect_timeout))),
    }
    options: dict[str, Any] = {"connect_args": arguments}
    if settings.pgbouncer:
        # A pooler hands each transaction another server connection: nothing that is prepared or set on
        # one can be relied on in the next. Without caches, asyncpg gives a prepared statement no name,
        # and the server forgets it with the next one; named ones would stay for ever.
        arguments |= {
            "connection_class": with_limits(_timeouts(settings)),
            "prepared_statement_cache_size": 0,
            "statement_cache_size": 0,
        }
        if read_only:
            options["execution_options"] = {"postgresql_readonly": True}
    elif read_only:
        server["default_transaction_read_only"] = "on"
        options["isolation_level"] = "AUTOCOMMIT"
    if "application_name=" not in url.query.get("dsn", ""):
        server["application_name"] = settings.application_name
    return options


def _timeouts(settings: DatabaseSettings) -> dict[str, str]:
    """Return the parameters by which the server gives up what takes too long.

    https://www.postgresql.org/docs/current/runtime-config-client.html
    """
    timeouts = {
        "statement_timeout": settings.statement_timeout,
        "lock_timeout": settings.lock_timeout,
        "idle_in_transaction_session_timeout": settings.idle_in_transaction_timeout,
    }
    return {name: _milliseconds(seconds) for name, seconds in timeouts.items()}


def _keepalives(settings: DatabaseSettings) -> dict[str, str]:
    """Return the parameters by which the server notices that we have died.

    https://www.postgresql.org/docs/current/runtime-config-connection.html
    """
    keepalive = _keepalive(settings.tcp_keepalive)
    return {
        "tcp_keepalives_idle": str(keepalive.idle),
        "tcp_keepalives_interval": str(keepalive.interval),
        "tcp_keepalives_count": str(keepalive.probes),
        "tcp_user_timeout": _milliseconds(2 * settings.tcp_keepalive),
    }


def _milliseconds(seconds: float) -> str:
    return str(math.ceil(seconds * 1000))


class _Keepalive(NamedTuple):
    idle: int  # seconds of silence before the other side is asked
    interval: int  # seconds between questions
    probes: int  # questions without an answer that are enough


def _keepalive(seconds: float) -> _Keepalive:
    """Ask after this time, and give up after as much again. All are zero for the system's own."""
    return _Keepalive(math.ceil(seconds), math.ceil(seconds / 3), 3 if seconds else 0)


def add_listeners(engine: Engine, settings: DatabaseSettings, *, read_only: bool) -> None:
    event.listen(engine, "do_connect", connect)
    event.listen(engine, "connect", partial(_keep_alive, settings.tcp_keepalive))
    event.listen(engine, "checkin", _take_back)
    event.listen(engine, "checkout", _refuse_stale)
    event.listen(engine, "handle_error", _hide_values)
    event.listen(engine, "handle_error", _translate_fetch)
    if not read_only:
        event.listen(engine, "handle_error", _leave_standby)
    else:
        # An event of the dialect: those of a connection would be looked for at every step of it.
        event.listen(engine, "do_execute", _begin_where_one_is_needed)
        event.listen(engine, "checkin", partial(_end_of_transactions, engine.dialect))


def connect(
    dialect: Dialect, _: ConnectionPoolEntry, args: list[Any], parameters: dict[str, Any]
) -> Any:
    """Connect, and let whatever keeps us from it be an `OperationalError` without a SQLSTATE.

    Of several hosts each has its own time to answer: asyncpg would let the first one, which has vanished
    without a word, use up that of all.

    asyncpg raises a bare `OSError` where nobody listens, and SQLAlchemy 2.1 makes a wrong password
    and a missing database a plain `DBAPIError`. No SQLSTATE: it is about us and not about what
    somebody asked for, whatever the server calls it.
    """
    give_types(parameters)
    dbapi: Any = dialect.loaded_dbapi
    outages = (dbapi.Error, asyncpg.TargetServerAttributeNotMatched, OSError, UnicodeError)
    *first, last = _hosts(parameters)
    for host in first:
        with suppress(*outages):
            return dialect.connect(*args, **parameters | host)
    try:
        return dialect.connect(*args, **parameters | last)
    except dbapi.InterfaceError:  # a parameter that makes no sense is nobody's outage
        raise
    except outages as error:
        raise dbapi.OperationalError(str(error) or type(error).__name__) from error


def _hosts(parameters: dict[str, Any]) -> list[dict[str, Any]]:
    """Return what is to be tried in turn; where one is only preferred, asyncpg has to know them all."""
    hosts = parameters.get("host")
    if not isinstance(hosts, list) or parameters.get("target_session_attrs") == "prefer-standby":
        return [{}]
    pairs = zip(hosts, parameters["port"], strict=True)
    return [{"host": host, "port": port} for host, port in pairs]


def _keep_alive(seconds: float, connection: Any, _: ConnectionPoolEntry) -> None:
    """Let the system find out that the server is gone, while we wait for an answer.

    A firewall that has forgotten the connection tells nobody, and no timeout of the server's reaches us.
    """
    inbox = _socket(connection.driver_connection)
    if not seconds or inbox.family not in {socket.AF_INET, socket.AF_INET6}:
        return
    keepalive = _keepalive(seconds)
    inbox.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    for names, value in (  # macOS has another name for the first, Windows has no TCP_USER_TIMEOUT
        (("TCP_KEEPIDLE", "TCP_KEEPALIVE"), keepalive.idle),
        (("TCP_KEEPINTVL",), keepalive.interval),
        (("TCP_KEEPCNT",), keepalive.probes),
        (("TCP_USER_TIMEOUT",), math.ceil(2 * seconds * 1000)),
    ):
        options = [getattr(socket, name) for name in names if hasattr(socket, name)]
        for option in options[:1]:
            inbox.setsockopt(socket.IPPROTO_TCP, option, value)


def _hide_values(context: ExceptionContext) -> None:
    """Take the values out of an error: "Key (email)=(…) already exists." is somebody's data.

    So is what the server, or asyncpg before it, says of a value that it does not accept.
    """
    error: Any = context.original_exception
    cause = error if isinstance(error, asyncpg.PostgresError) else error.__cause__
    if isinstance(cause, asyncpg.PostgresError):
        cause.detail = None
    if isinstance(cause, asyncpg.DataError):
        said = str(cause.args[0])
        shown, *value = re.split(""": |["']""", said, maxsplit=1)
        for error in (context.sqlalchemy_exception, context.original_exception, cause):
            if error and value:
                first, *others = error.args
                error.args = (str(first).replace(said, f"{shown.strip()} …"), *others)


def _translate_fetch(context: ExceptionContext) -> Exception | None:
    """Let the error of a stream be what it is elsewhere: its cursor fetches past SQLAlchemy's translation."""
    error = context.original_exception
    if not isinstance(error, (asyncpg.PostgresError, asyncpg.InterfaceError)):
        return None
    assert context.connection
    assert context.dialect
    adapter: Any = context.connection.connection.dbapi_connection
    base: Any = context.dialect.loaded_dbapi.Error
    context.is_disconnect = adapter.driver_connection.is_closed()
    try:
        adapter._handle_exception(error)
    except base as translated:
        known: Exception = DBAPIError.instance(
            context.statement,
            None,
            translated,
            base,
            hide_parameters=True,
            dialect=context.dialect,
        )
        return known
    return None


def needs_no_rollback(connection: Connection) -> bool:
    """Say whether a session on this connection can end without a word to the server.

    It is in no transaction, and the pool has room for it: a connection of the overflow is closed.
    """
    if connection.dialect.driver != "asyncpg":
        return False
    adapter: Any = connection.connection.dbapi_connection
    pool = cast("AsyncAdaptedQueuePool", connection.engine.pool)
    return bool(adapter.autocommit) and pool.overflow() <= 0


def _take_back(connection: Any, record: ConnectionPoolEntry) -> None:
    """Note the time, and drop a connection that some task uses still: SQLAlchemy takes it for clean.

    It is within a transaction, as COMMIT and ROLLBACK have been refused to it, or in AUTOCOMMIT
    within a statement.
    """
    if connection is None:  # it is dropped already
        return
    record.info["idle_since"] = monotonic()
    driver = connection.driver_connection
    if driver.is_closed():
        return
    if driver.is_in_transaction() or connection._execute_mutex.locked():
        record.invalidate()


def _refuse_stale(connection: Any, record: ConnectionPoolEntry, _: object) -> None:
    """Replace a connection that the server has closed before a request meets it.

    asyncpg knows when its peer has closed, once the event loop has had the time to tell it. A
    network that drops packets tells nobody. So a connection is asked where something unread lies on
    its socket, which may be that news, or where it was idle for long enough to be dropped.
    """
    driver = connection.driver_connection
    if driver.is_closed():
        raise InvalidatePoolError
    idle_since = record.info.get("idle_since")
    if idle_since is None:  # it is new
        return
    if monotonic() - idle_since < IDLE_BEFORE_PING and not _has_unread_input(driver, record):
        return
    try:
        await_only(asyncio.wait_for(driver.execute(PING), PING_TIMEOUT))
    except (asyncpg.PostgresError, asyncpg.InterfaceError, OSError) as error:
        driver.terminate()  # a polite good-bye would wait for an answer
        raise InvalidatePoolError from error


def _leave_standby(context: ExceptionContext) -> None:
    """Take a server that is a standby for one that is lost: its name has not moved yet, or moved late.

    Otherwise the pool would keep such connections, and every write would fail until they are old.
    """
    if getattr(context.original_exception, "sqlstate", None) == READ_ONLY_SQLSTATE:
        driver: Any = context.connection and context.connection.connection.driver_connection
        if driver and getattr(driver.get_settings(), "in_hot_standby", "off") == "on":
            context.is_disconnect = True


def _begin_where_one_is_needed(_: Any, statement: str, __: Any, context: ExecutionContext) -> None:
    """Let a read-only session be in a transaction, one snapshot, from this statement on.

    A cursor on the server and a savepoint live in one, and AUTOCOMMIT begins none.
    """
    if context.execution_options.get("stream_results") or statement.startswith("SAVEPOINT"):
        adapter: Any = context.root_connection.connection.dbapi_connection
        if adapter.autocommit:
            context.dialect.set_isolation_level(adapter, "REPEATABLE READ")


def _end_of_transactions(dialect: Dialect, adapter: Any, _: ConnectionPoolEntry) -> None:
    if adapter is not None and adapter.isolation_level == "repeatable_read":
        dialect.reset_isolation_level(adapter)


def _has_unread_input(driver: Any, record: ConnectionPoolEntry) -> bool:
    if "inbox" not in record.info:
        inbox = record.info["inbox"] = Selector()
        inbox.register(_socket(driver), selectors.EVENT_READ)
    return bool(record.info["inbox"].select(timeout=0))


def _socket(driver: Any) -> socket.socket:
    found: socket.socket = driver._transport.get_extra_info("socket")
    return found
