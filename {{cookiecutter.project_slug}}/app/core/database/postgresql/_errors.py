"""Errors of PostgreSQL: without values of requests, translated in streams, a standby as an outage."""

import re
from typing import Any

import asyncpg
from sqlalchemy import Connection
from sqlalchemy.engine import ExceptionContext
from sqlalchemy.exc import DBAPIError

READ_ONLY_SQLSTATE = "25006"


def hide_values(context: ExceptionContext) -> None:
    """Remove values from an error: "Key (email)=(…) already exists." contains personal data.

    The message of a value that the server, or asyncpg before it, does not accept contains it, too.
    """
    error: Any = context.original_exception
    cause = error if isinstance(error, asyncpg.PostgresError) else error.__cause__
    if isinstance(cause, asyncpg.PostgresError):
        cause.detail = None
    if isinstance(cause, asyncpg.DataError):
        message = str(cause.args[0])
        shown, *value = re.split(""": |["']""", message, maxsplit=1)
        for error in (context.sqlalchemy_exception, context.original_exception, cause):
            if error and value:
                first, *others = error.args
                error.args = (str(first).replace(message, f"{shown.strip()} …"), *others)


def translate_stream_error(context: ExceptionContext) -> Exception | None:
    """Return the error of a stream as SQLAlchemy raises it elsewhere.

    SQLAlchemy 2.1 does not translate the errors of asyncpg that the fetches of a stream raise.
    """
    error = context.original_exception
    if not isinstance(error, (asyncpg.PostgresError, asyncpg.InterfaceError)):
        return None
    assert context.connection
    assert context.dialect
    adapter = _adapter_of(context.connection)
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


def disconnect_from_standby(context: ExceptionContext) -> None:
    """Treat a refused write on a standby as a lost connection, so that the pool replaces it.

    After a failover, the primary's host name may lead to a standby for a while. Connections opened
    then would stay in the pool until `pool_recycle`, and each write on them would fail.
    """
    if getattr(context.original_exception, "sqlstate", None) == READ_ONLY_SQLSTATE:
        adapter = _adapter_of(context.connection)
        if adapter is None:
            return
        settings = adapter.driver_connection.get_settings()
        if getattr(settings, "in_hot_standby", "off") == "on":
            context.is_disconnect = True


def _adapter_of(connection: Connection | None) -> Any:
    """Return SQLAlchemy's adapter around the asyncpg connection, or None if there is none any more.

    `connection.connection` alone would open a new connection in place of an invalidated one.
    """
    if connection is None or connection.closed or connection.invalidated:
        return None
    return connection.connection.dbapi_connection
