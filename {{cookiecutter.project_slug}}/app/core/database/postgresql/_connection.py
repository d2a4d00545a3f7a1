"""The connection class given to asyncpg: it checks each COMMIT, with timeouts for COMMIT and closing."""

import asyncio
import math
import socket
from contextlib import suppress
from contextvars import ContextVar
from time import monotonic
from typing import Any

import asyncpg
from sqlalchemy import Connection

from app.core.database.errors import CommitOutcomeUnknownError, TransactionFailedError
from app.core.database.statistics import work
from app.core.database.tasks import start, wait_until_done

CLOSE_TIMEOUT = 2.0  # seconds
CONNECTION_LOST = ("08", "57P")  # SQLSTATEs

# asyncpg's errors have no base class in common. It raises InternalClientError if the server has
# terminated the connection, but has not closed the socket yet.
BROKEN = (asyncpg.PostgresError, asyncpg.InterfaceError, asyncpg.InternalClientError, OSError)

_closing_until = ContextVar("closing_until", default=math.inf)  # `time.monotonic()`


class CommitCheckingConnection(asyncpg.Connection):  # type: ignore[misc]
    """A connection that raises `TransactionFailedError` if COMMIT rolled back.

    PostgreSQL responds to COMMIT with ROLLBACK if a statement of the transaction has failed. asyncpg
    and SQLAlchemy ignore that response: the writes are lost although the commit returned normally.

    It raises `CommitOutcomeUnknownError` if there is no response. `statement_timeout` does not apply
    to deferred triggers, nor to the wait for a synchronous standby. After `commit_timeout` the
    connection is closed.

    The server never gets a request to cancel COMMIT: a cancelled wait would make the transaction
    visible although the standby does not have it. A cancelled task waits for the response, at most
    until `commit_timeout`, and closes the connection.
    """

    commit_timeout = 0.0  # seconds; 0 is no limit
    limits = ""  # SET LOCAL statements, sent in the same message as BEGIN: without a round trip
    _is_committing = False

    async def execute(self, query: str, *args: Any, **options: Any) -> str:
        if not query.upper().startswith("COMMIT"):
            if query.startswith("BEGIN"):
                query += self.limits
            return str(await super().execute(query, *args, **options))
        began = monotonic()
        loop = asyncio.get_running_loop()
        timer = loop.call_later(self.commit_timeout or math.inf, self.terminate)
        self._is_committing = True
        try:
            status: str = await super().execute(query, *args, **options)
        except asyncio.CancelledError:
            await wait_until_done(start(self._close_after_response))
            raise
        except (OSError, asyncpg.PostgresError, asyncpg.InternalClientError) as error:
            if not (getattr(error, "sqlstate", None) or "08").startswith(CONNECTION_LOST):
                raise
            raise CommitOutcomeUnknownError from error
        finally:
            self._is_committing = False
            timer.cancel()
            if done := work.get():
                done.seconds += monotonic() - began
        if status == "ROLLBACK":
            raise TransactionFailedError
        return status

    async def _close_after_response(self) -> None:
        with suppress(*BROKEN):
            await super().close()

    def _cancel_current_command(self, sent: asyncio.Future[None], *others: Any) -> None:
        """Send a request to cancel the statement, but not COMMIT. asyncpg waits for `sent`."""
        if self._is_committing:
            sent.set_result(None)
        else:
            super()._cancel_current_command(sent, *others)

    async def close(self, **options: float | None) -> None:
        """Close; after CLOSE_TIMEOUT, or at the time of `close_together`, do not wait for the server."""
        seconds = min(options.get("timeout") or CLOSE_TIMEOUT, _closing_until.get() - monotonic())
        with suppress(TimeoutError):
            await super().close(timeout=max(seconds, 0))


def connection_class(
    commit_timeout: float, limits: dict[str, str]
) -> type[CommitCheckingConnection]:
    """Return a class with a timeout for COMMIT, and with server settings for each transaction."""

    class LimitedConnection(CommitCheckingConnection):
        pass

    LimitedConnection.commit_timeout = commit_timeout
    LimitedConnection.limits = "".join(f" SET LOCAL {k} = {v};" for k, v in limits.items())
    return LimitedConnection


def close_together() -> None:
    """Let all connections that this task closes from now on share one CLOSE_TIMEOUT."""
    _closing_until.set(monotonic() + CLOSE_TIMEOUT)


def adapter_of(connection: Connection | None) -> Any:
    """Return SQLAlchemy's adapter around the asyncpg connection, or None if there is none any more.

    `connection.connection` alone would open a new connection in place of an invalidated one.
    """
    if connection is None or connection.closed or connection.invalidated:
        return None
    return connection.connection.dbapi_connection


def socket_of(driver: asyncpg.Connection) -> socket.socket:
    """Return the socket of a connection. asyncpg has no public attribute for it."""
    found: socket.socket = driver._transport.get_extra_info("socket")
    return found
