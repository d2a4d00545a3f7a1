"""PostgreSQL through asyncpg: options and event listeners of an engine.

Start with `engine_options` and `add_listeners`. Their parts are in the modules beside this file:

    _connection.py  the connection class: COMMIT is checked, limits are set per transaction
    _commit.py      COMMIT without a greenlet
    _connect.py     connecting: several hosts, TCP keepalive, connection errors
    _liveness.py    stale, busy and lost connections
    _read_only.py   transactions of read-only sessions
    _errors.py      errors of streams, outdated caches, a server that became a standby
"""

import math
from functools import partial
from typing import Any

from sqlalchemy import URL, Engine, event

from app.core.database.libpq import typed_parameters
from app.core.database.postgresql._commit import send_commit
from app.core.database.postgresql._connect import connect, enable_keepalive, keepalive_of
from app.core.database.postgresql._connection import close_together, connection_class
from app.core.database.postgresql._errors import (
    disconnect_from_standby,
    disconnect_outdated,
    end_implicit_transaction,
    translate_stream_error,
)
from app.core.database.postgresql._liveness import discard_busy, discard_stale, release_lost
from app.core.database.postgresql._read_only import begin_snapshot, end_snapshot, needs_no_rollback
from app.core.database.settings import DatabaseSettings

__all__ = [
    "add_listeners",
    "close_together",
    "connect",
    "engine_options",
    "needs_no_rollback",
    "send_commit",
]


def engine_options(url: URL, settings: DatabaseSettings, *, read_only: bool) -> dict[str, Any]:
    """Return arguments of `create_async_engine`, all but the URL and the pool.

    `timeout` and `application_name` in the URL take precedence over the settings.
    """
    server = {} if settings.pgbouncer else _timeouts(settings) | _keepalives(settings)
    arguments: dict[str, Any] = {
        "connection_class": connection_class(
            settings.commit_timeout, _timeouts(settings) if settings.pgbouncer else {}
        ),
        "server_settings": server,
        "timeout": settings.connect_timeout,
        **typed_parameters(url.query),
    }
    options: dict[str, Any] = {"connect_args": arguments}
    if settings.pgbouncer:
        # With PgBouncer, each transaction may run on another server connection, so no prepared
        # statement and no SET outlives a transaction. Without caches, asyncpg prepares statements
        # without a name, and the server replaces the last one. Named ones would never be removed.
        arguments |= {
            "prepared_statement_cache_size": 0,
            "statement_cache_size": 0,
        }
        if read_only:
            options["execution_options"] = {"postgresql_readonly": True}
    elif read_only:
        arguments["read_only"] = True
        options["isolation_level"] = "AUTOCOMMIT"
    if "application_name=" not in url.query.get("dsn", ""):
        server["application_name"] = settings.application_name
    return options


def add_listeners(engine: Engine, settings: DatabaseSettings, *, read_only: bool) -> None:
    event.listen(engine, "do_connect", connect)
    event.listen(engine, "connect", partial(enable_keepalive, settings.tcp_keepalive))
    event.listen(engine, "checkin", discard_busy)
    event.listen(engine, "checkout", discard_stale)
    # `do_execute` is an event of the dialect. Those of an engine cost every statement more.
    event.listen(engine, "do_execute", release_lost)
    event.listen(engine, "handle_error", disconnect_outdated)
    event.listen(engine, "handle_error", end_implicit_transaction)
    event.listen(engine, "handle_error", translate_stream_error)
    if read_only:
        event.listen(engine, "do_execute", begin_snapshot)
        event.listen(engine, "checkin", partial(end_snapshot, engine.dialect))
    else:
        event.listen(engine, "handle_error", disconnect_from_standby)


def _timeouts(settings: DatabaseSettings) -> dict[str, str]:
    """Return the server's timeouts for statements, locks and idle transactions.

    https://www.postgresql.org/docs/current/runtime-config-client.html
    """
    timeouts = {
        "statement_timeout": settings.statement_timeout,
        "lock_timeout": settings.lock_timeout,
        "idle_in_transaction_session_timeout": settings.idle_in_transaction_timeout,
    }
    return {name: _milliseconds(seconds) for name, seconds in timeouts.items()}


def _keepalives(settings: DatabaseSettings) -> dict[str, str]:
    """Return the TCP settings by which the server detects that this client has died.

    https://www.postgresql.org/docs/current/runtime-config-connection.html
    """
    keepalive = keepalive_of(settings.tcp_keepalive)
    return {
        "tcp_keepalives_idle": str(keepalive.idle),
        "tcp_keepalives_interval": str(keepalive.interval),
        "tcp_keepalives_count": str(keepalive.probes),
        "tcp_user_timeout": _milliseconds(2 * settings.tcp_keepalive),
    }


def _milliseconds(seconds: float) -> str:
    return str(math.ceil(seconds * 1000))
