"""Where read-only sessions go while their replica does not answer: READ_FALLBACK."""

import asyncio
import logging
import math
from time import monotonic
from typing import Any

from sqlalchemy import URL, Engine, event
from sqlalchemy.engine import Dialect
from sqlalchemy.exc import DisconnectionError
from sqlalchemy.pool import ConnectionPoolEntry

from app.core.database import postgresql

RETRY_AFTER = 10.0  # seconds
PATIENCE = 0.3  # seconds, after which who stops waiting for the replica has waited in vain

# What a server says that is starting, is stopping or cannot be reached by what is before it.
NO_ANSWER = ("08", "57P")

logger = logging.getLogger(__name__)


def fall_back(engine: Engine, url: URL, arguments: dict[str, Any]) -> None:
    """Let an engine of a replica connect to this URL instead, while the replica does not answer.

    The replica does not answer: nobody listens, a name is unknown, it takes too long, it is starting.
    One that answers, and refuses us, is a mistake that should be seen.
    """
    fallback = Fallback(engine.url, url, arguments)
    event.listen(engine, "do_connect", fallback.connect)
    event.listen(engine, "checkout", fallback.refuse_expired)


class Fallback:
    """Connections to the replica or, with the same arguments, to the database itself.

    While the replica is down it is tried every few seconds, by one connect that waits for it while
    the others do not; and a connection to the database itself is used for no longer than that. So
    reads return to a replica that is back, and only one request at a time waits for one that hangs.
    """

    def __init__(self, replica: URL, database: URL, arguments: dict[str, Any]) -> None:
        self._replica = replica
        self._database = database
        self._arguments = arguments
        self._is_down = False
        self._next_try = -math.inf

    def connect(
        self,
        dialect: Dialect,
        record: ConnectionPoolEntry,
        args: list[Any],
        parameters: dict[str, Any],
    ) -> Any:
        if not self._is_down or monotonic() >= self._next_try:
            began = monotonic()
            self._next_try = began + RETRY_AFTER
            try:
                connection = postgresql.connect(dialect, record, args, parameters)
            except dialect.loaded_dbapi.OperationalError as error:
                if not _is_no_answer(error.__cause__):
                    raise
                self._note_down(error)
            except asyncio.CancelledError as error:  # whoever asked may wait for less than we do
                if monotonic() - began > PATIENCE:
                    self._note_down(error)
                raise
            else:
                self._note_up()
                return connection
        record.info["expires"] = monotonic() + RETRY_AFTER
        _, where = dialect.create_connect_args(self._database)
        return postgresql.connect(dialect, record, [], {**where, **self._arguments})

    def refuse_expired(self, _: object, record: ConnectionPoolEntry, __: object) -> None:
        if record.info.get("expires", math.inf) <= monotonic():
            raise DisconnectionError

    def _note_down(self, error: BaseException) -> None:
        self._next_try = monotonic() + RETRY_AFTER
        if not self._is_down:
            self._is_down = True
            logger.warning(
                "The replica at %s does not answer, reads go to the database itself: %s",
                _address(self._replica),
                error or "cancelled",
            )

    def _note_up(self) -> None:
        if self._is_down:
            self._is_down = False
            logger.warning("The replica at %s answers again.", _address(self._replica))


def _is_no_answer(error: BaseException | None) -> bool:
    sqlstate = getattr(error, "sqlstate", None) or ""
    return isinstance(error, OSError) or sqlstate.startswith(NO_ANSWER)


def _address(url: URL) -> str:
    """Return where a server is, which may be in the query, without anything secret."""
    host = url.host or url.query.get("host", "localhost")
    return f"{host}:{url.port or url.query.get('port', 5432)}/{url.database}"
