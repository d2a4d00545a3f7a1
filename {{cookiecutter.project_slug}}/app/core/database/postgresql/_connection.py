"""The connection class given to asyncpg: it checks each COMMIT and can set limits per transaction."""

import socket
from time import monotonic
from typing import Any

import asyncpg

from app.core.database.errors import TransactionFailedError
from app.core.database.statistics import work


class CommitCheckingConnection(asyncpg.Connection):  # type: ignore[misc]
    """A connection that raises `TransactionFailedError` if COMMIT rolled back.

    PostgreSQL responds to COMMIT with ROLLBACK if a statement of the transaction has failed. asyncpg
    and SQLAlchemy ignore that response: the writes are lost although the commit returned normally.
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
    """Return a connection class that sets these server settings at the start of each transaction.

    They are sent in the same message as BEGIN, so they take no round trip of their own.
    """
    settings = "".join(f" SET LOCAL {name} = {value};" for name, value in limits.items())

    class LimitedConnection(CommitCheckingConnection):
        async def execute(self, query: str, *args: Any, **options: Any) -> str:
            if query.startswith("BEGIN"):
                query += settings
            return await super().execute(query, *args, **options)

    return LimitedConnection


def socket_of(driver: asyncpg.Connection) -> socket.socket:
    """Return the socket of a connection. asyncpg has no public attribute for it."""
    found: socket.socket = driver._transport.get_extra_info("socket")
    return found
