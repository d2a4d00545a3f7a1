"""Errors of PostgreSQL: translated in streams, a standby or an outdated cache as an outage."""

import re
from contextlib import suppress
from typing import Any

import asyncpg
from sqlalchemy.engine import ExceptionContext
from sqlalchemy.exc import DBAPIError

from app.core.database.postgresql._connection import BROKEN, adapter_of
from app.core.database.postgresql._liveness import PING, PING_TIMEOUT

READ_ONLY_SQLSTATE = "25006"


def disconnect_outdated(context: ExceptionContext) -> None:
    """Replace the pool's connections if a migration has replaced a type or table that they cache.

    A prepared statement contains the OID of the old one. PostgreSQL translates these messages only
    in part, and never "OID".
    """
    cause = context.original_exception.__cause__
    is_code = isinstance(cause, (asyncpg.InternalServerError, asyncpg.UndefinedObjectError))
    if is_code and re.search(r"^cache lookup failed for |\bOID \d", str(cause)):
        context.is_disconnect = True


def translate_stream_error(context: ExceptionContext) -> Exception | None:
    """Return the error of a stream as SQLAlchemy raises it elsewhere.

    SQLAlchemy 2.1 does not translate the errors of asyncpg that the fetches of a stream raise.
    """
    error = context.original_exception
    if isinstance(error, asyncpg.InternalClientError):  # the server has terminated the connection
        context.is_disconnect = True
    if not isinstance(error, (asyncpg.PostgresError, asyncpg.InterfaceError)):
        return None
    assert context.connection
    assert context.dialect
    adapter = adapter_of(context.connection)
    if adapter is None:  # the session has ended, and a task still reads its stream
        context.is_disconnect = context.connection.invalidated
        return None
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


def end_implicit_transaction(context: ExceptionContext) -> None:
    """In AUTOCOMMIT, end the transaction of a statement whose values asyncpg refuses.

    PostgreSQL has prepared the statement, and locks its tables until the message that follows the
    values. asyncpg does not send it. The next BEGIN on this connection would fail. So send a query.
    """
    cause = context.original_exception.__cause__
    is_of_client = isinstance(cause, (asyncpg.PostgresError, asyncpg.InterfaceError))
    adapter = adapter_of(context.connection)
    if not is_of_client or getattr(cause, "severity", None) or adapter is None:
        return
    if context.dialect and context.dialect.detect_autocommit_setting(adapter):
        with suppress(*BROKEN):
            adapter.run_async(lambda driver: driver.execute(PING, timeout=PING_TIMEOUT))


def disconnect_from_standby(context: ExceptionContext) -> None:
    """Treat a refused write on a standby as a lost connection, so that the pool replaces it.

    After a failover, the primary's host name may lead to a standby for a while. Connections opened
    then would stay in the pool until `pool_recycle`, and each write on them would fail.
    """
    if getattr(context.original_exception, "sqlstate", None) == READ_ONLY_SQLSTATE:
        adapter = adapter_of(context.connection)
        if adapter is None:
            return
        settings = adapter.driver_connection.get_settings()
        if getattr(settings, "in_hot_standby", "off") == "on":
            context.is_disconnect = True
