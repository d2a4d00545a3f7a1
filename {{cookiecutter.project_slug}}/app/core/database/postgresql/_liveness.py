"""Stale and busy connections, which no session may get, and lost ones, which none may keep."""

import asyncio
import selectors
from functools import partial
from time import monotonic
from typing import Any

import asyncpg
from sqlalchemy import Connection
from sqlalchemy.engine import ExecutionContext
from sqlalchemy.exc import InvalidatePoolError
from sqlalchemy.pool import ConnectionPoolEntry

from app.core.database.postgresql._connection import BROKEN, socket_of

IDLE_BEFORE_PING = 1.0  # seconds
PING_TIMEOUT = 2.0  # seconds
STREAM = "stream"  # the key in a pool entry's `info` of a connection with a stream
PING = "SELECT 1"  # an empty statement raises AttributeError in asyncpg 0.32

# Neither needs a file descriptor of its own, as epoll does. Windows has no poll.
Selector = getattr(selectors, "PollSelector", selectors.SelectSelector)


def discard_busy(connection: Any, record: ConnectionPoolEntry) -> None:
    """At checkin, invalidate a connection that a task still uses. SQLAlchemy would pool it.

    Such a connection is in a transaction, because asyncpg refused COMMIT and ROLLBACK during the
    task's statement. In AUTOCOMMIT, where there is no transaction, it is running a statement.
    """
    if connection is None:  # already invalidated
        return
    record.info["fresh_until"] = monotonic() + IDLE_BEFORE_PING
    driver = connection.driver_connection
    if release := record.info.pop(STREAM, None):
        driver.remove_termination_listener(release)
    if driver.is_closed():
        return
    if driver.is_in_transaction() or connection._execute_mutex.locked():
        record.invalidate()


def release_lost(cursor: Any, _: str, __: Any, context: ExecutionContext) -> None:
    """Let a stream return its connection when the server closes it, even if its client does not read."""
    if context.execution_options.get("stream_results"):
        connection: Any = context.root_connection.connection
        if STREAM not in connection.info:
            release = connection.info[STREAM] = partial(_release, context.root_connection, [])
            connection.driver_connection.add_termination_listener(release)
        streams = connection.info[STREAM].args[1]
        streams[:] = [*filter(_is_open, streams), cursor]


def _release(connection: Connection, streams: list[Any], _: object) -> None:
    """Invalidate the connection. After the last stream, the next statement tells that it is lost."""
    if not connection.closed and any(map(_is_open, streams)):
        connection.invalidate()


def _is_open(stream: Any) -> bool:
    return stream._cursor is not None


def discard_stale(connection: Any, record: ConnectionPoolEntry, _: object) -> None:
    """At checkout, replace a connection that the server or the network has closed.

    asyncpg notices that the server has closed a connection once the event loop has read the socket.
    It does not notice a network that drops packets. So a connection is pinged if its socket has
    unread input, which may be the end of the connection, or if it was idle for IDLE_BEFORE_PING.
    """
    driver = connection.driver_connection
    if driver.is_closed():
        raise InvalidatePoolError
    fresh_until = record.info.get("fresh_until")
    if fresh_until is None:  # it is new
        return
    if monotonic() < fresh_until and not _has_unread_input(driver, record):
        return
    try:
        connection.run_async(_ping)
    except BROKEN as error:
        driver.terminate()  # a graceful close would wait for the server
        raise InvalidatePoolError from error


async def _ping(driver: asyncpg.Connection) -> None:
    await asyncio.wait_for(driver.execute(PING), PING_TIMEOUT)


def _has_unread_input(driver: asyncpg.Connection, record: ConnectionPoolEntry) -> bool:
    if "inbox" not in record.info:
        inbox = record.info["inbox"] = Selector()
        inbox.register(socket_of(driver), selectors.EVENT_READ)
    return bool(record.info["inbox"].select(timeout=0))
