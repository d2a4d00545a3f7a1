"""Connecting to PostgreSQL: several hosts, TCP keepalive, connection errors."""

import math
import socket
from contextlib import suppress
from operator import methodcaller
from typing import Any, NamedTuple

from sqlalchemy.engine import Dialect
from sqlalchemy.exc import MissingGreenlet
from sqlalchemy.pool import ConnectionPoolEntry
from sqlalchemy.util.concurrency import in_greenlet  # docs/private-apis.md

from app.core.database.postgresql._connection import BROKEN, socket_of

READ_ONLY = "SET default_transaction_read_only = on"


def connect(
    dialect: Dialect, _: ConnectionPoolEntry, args: list[Any], parameters: dict[str, Any]
) -> Any:
    """Return a connection to the first host that accepts one; `read_only` in the parameters makes it read-only.

    Each host has the whole connect timeout. asyncpg has one timeout for all hosts, so a first host
    that does not respond would use it up.

    This is a listener of `do_connect` and not an `async_creator`, because SQLAlchemy passes no
    parameters to that, and ignores `prepared_statement_cache_size` with it.

    Raises:
        MissingGreenlet: the caller does not wait (`_connect` in session.py).
        OperationalError: no host accepts a connection, for any reason: no server, wrong password, no
            such database. asyncpg raises a bare `OSError` for the first, and SQLAlchemy 2.1 a plain
            `DBAPIError` for the others. The error has no SQLSTATE, because its cause is the
            service's configuration or an outage, and not a statement of a request.
    """
    if not in_greenlet():
        raise MissingGreenlet("a new connection has to wait for the server")
    dbapi: Any = dialect.loaded_dbapi
    outages = (dbapi.Error, *BROKEN, UnicodeError)
    read_only = parameters.pop("read_only", False)
    *first, last = _attempts(parameters)
    for attempt in first:
        with suppress(*outages):
            return _connect(dialect, args, parameters | attempt, read_only)
    try:
        return _connect(dialect, args, parameters | last, read_only)
    except outages as error:
        raise dbapi.OperationalError(str(error) or type(error).__name__) from error


def _connect(dialect: Dialect, args: list[Any], parameters: dict[str, Any], read_only: bool) -> Any:
    """Return a connection that is read-only if requested, after asyncpg has selected the server.

    In the startup message, the setting would be what `target_session_attrs` looks at: `read-write`
    would then accept no server, and `read-only` each one.
    """
    connection: Any = dialect.connect(*args, **parameters)
    if read_only:
        set_read_only = methodcaller("execute", READ_ONLY, timeout=parameters["timeout"])
        try:
            connection.run_async(set_read_only)
        except BaseException:
            connection.driver_connection.terminate()
            raise
    return connection


def _attempts(parameters: dict[str, Any]) -> list[dict[str, Any]]:
    """Return the parameters that each attempt has of its own: a host with its port.

    With `prefer-standby`, all hosts are asked for a standby first, and then for any server.
    """
    hosts = parameters.get("host")
    if not isinstance(hosts, list):
        return [{}]
    pairs = zip(hosts, parameters["port"], strict=True)
    attempts = [{"host": host, "port": port} for host, port in pairs]
    if parameters.get("target_session_attrs") != "prefer-standby":
        return attempts
    wanted = [{"target_session_attrs": attribute} for attribute in ("standby", "any")]
    return [attempt | attribute for attribute in wanted for attempt in attempts]


class Keepalive(NamedTuple):
    idle: int  # seconds without traffic before the first probe
    interval: int  # seconds between probes
    probes: int  # probes without a response after which the connection is closed


def keepalive_of(seconds: float) -> Keepalive:
    """Return TCP keepalive that probes after this time and closes the connection after twice as much.

    Zero means the operating system's own values, for each of the three.
    """
    return Keepalive(math.ceil(seconds), math.ceil(seconds / 3), 3 if seconds else 0)


def enable_keepalive(seconds: float, connection: Any, _: ConnectionPoolEntry) -> None:
    """Let the operating system detect a dead server while the service waits for its response.

    A firewall that drops the connection notifies neither side, and the server's timeouts do not
    reach a client that is cut off.
    """
    client = socket_of(connection.driver_connection)
    if not seconds or client.family not in {socket.AF_INET, socket.AF_INET6}:
        return
    keepalive = keepalive_of(seconds)
    client.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    for names, value in (  # macOS has another name for the first, Windows has no TCP_USER_TIMEOUT
        (("TCP_KEEPIDLE", "TCP_KEEPALIVE"), keepalive.idle),
        (("TCP_KEEPINTVL",), keepalive.interval),
        (("TCP_KEEPCNT",), keepalive.probes),
        (("TCP_USER_TIMEOUT",), math.ceil(2 * seconds * 1000)),
    ):
        options = [getattr(socket, name) for name in names if hasattr(socket, name)]
        for option in options[:1]:
            client.setsockopt(socket.IPPROTO_TCP, option, value)
