"""READ_FALLBACK: read-only sessions use the database itself while its replica is down."""

import asyncio
import logging
import math
from time import monotonic
from typing import Any

import asyncpg
from sqlalchemy import URL, Engine, event
from sqlalchemy.engine import Dialect
from sqlalchemy.exc import DisconnectionError
from sqlalchemy.pool import ConnectionPoolEntry

from app.core.database import postgresql

RETRY_AFTER = 10.0  # seconds between attempts to connect to a replica that is down
PATIENCE = 0.3  # seconds; a connect that is cancelled after this time marks the replica as down

# SQLSTATEs of a server that is starting or stopping, or of a proxy that cannot reach its server.
DOWN = ("08", "57P")

logger = logging.getLogger(__name__)


def fall_back(engine: Engine, url: URL, arguments: dict[str, Any]) -> None:
    """Let the engine of a replica connect to this URL instead while the replica is down.

    Down means: the connection is refused or times out, the host name is unknown, the server is
    starting or stopping, or no host is of the kind that `target_session_attrs` requires. The error of
    a replica that responds and refuses the connection (wrong password, too many connections) is
    raised, so that it is noticed.
    """
    fallback = Fallback(engine.url, url, arguments)
    event.listen(engine, "do_connect", fallback.connect)
    event.listen(engine, "checkout", fallback.refuse_expired)


class Fallback:
    """Connects to the replica or, with the same arguments, to the database itself.

    While the replica is down, one connect tries it every RETRY_AFTER seconds, and all others go to
    the database itself at once. So at most one request at a time waits for a replica that hangs.
    Connections to the database itself are replaced after RETRY_AFTER seconds, so that reads return
    to the replica once it is up.
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
                if not _means_down(error.__cause__):
                    raise
                self._note_down(error)
            except asyncio.CancelledError as error:  # the request's timeout may be the shorter one
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
                "The replica at %s is down, read-only sessions use the database itself: %s",
                _address(self._replica),
                error or "cancelled",
            )

    def _note_up(self) -> None:
        if self._is_down:
            self._is_down = False
            logger.warning("The replica at %s is up again.", _address(self._replica))


def _means_down(error: BaseException | None) -> bool:
    sqlstate = getattr(error, "sqlstate", None) or ""
    no_standby = error and isinstance(error.__cause__, asyncpg.TargetServerAttributeNotMatched)
    return bool(no_standby) or isinstance(error, OSError) or sqlstate.startswith(DOWN)


def _address(url: URL) -> str:
    """Return host, port and name of the database, without user, password and other parameters."""
    host = url.host or url.query.get("host", "localhost")
    return f"{host}:{url.port or url.query.get('port', 5432)}/{url.database}"
