"""The sessions of `core/db.py`: how they connect, and how they end."""

import asyncio
import logging
from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING, Any, cast

from sqlalchemy import Connection, Engine
from sqlalchemy.exc import InvalidRequestError, MissingGreenlet
from sqlalchemy.ext.asyncio import AsyncEngine, AsyncSession
from sqlalchemy.util import greenlet_spawn  # docs/private-apis.md

from app.core.database import postgresql
from app.core.database.pool import FairPool
from app.core.database.statistics import begin_use
from app.core.database.sync_session import TrackedSession
from app.core.database.tasks import start, wait_until_done

ROLLBACK_TIMEOUT = 5.0  # seconds, after which the connection is closed instead

logger = logging.getLogger(__name__)


class LazySession(AsyncSession):
    """An `AsyncSession` that creates its ORM session, `sync_session`, when something uses it.

    Until then, prepared statements (`statement.py`) run on a connection that this object checks out:
    to create the ORM session takes more CPU time than the statement. The ORM session later takes
    over the connection and its transaction.
    """

    is_ended = False
    _is_connecting = False
    _connection: Connection | None = None

    def __init__(
        self,
        bind: AsyncEngine,
        compiled: dict[Any, Any],
        is_observed: Callable[[], bool],
        **options: Any,
    ) -> None:
        self.compiled = compiled  # prepared statements of the engine, for all its sessions
        self._is_observed = is_observed
        self._bind = bind
        self._options = options

    if not TYPE_CHECKING:

        def __getattr__(self, name: str) -> Any:
            """Create the two attributes of `AsyncSession` that all of its other methods use."""
            if name not in {"sync_session", "_proxied"}:
                raise AttributeError(name)
            super().__init__(self._bind, **self._options)
            if self._connection:
                self._hand_over(self._connection)
            if self.is_ended:  # every use of it raises
                self.sync_session.close()
            return vars(self)[name]

    @property
    def has_sync_session(self) -> bool:
        return "sync_session" in vars(self)

    def _hand_over(self, connection: Connection) -> None:
        """Let `sync_session` begin on this connection instead of one from the pool."""
        session = self.sync_session
        self._connection = None
        self._tracked.track(connection)
        engine, session.bind = session.bind, cast("Engine", _SingleConnection(connection))
        session.connection()
        session.bind = engine

    async def check_out(self) -> Connection | None:
        """Return the connection for prepared statements; None if `sync_session` must execute them."""
        if self._connection:
            return self._connection
        if self.has_sync_session or self.is_ended or self._is_observed():
            return None
        if self._is_connecting:
            raise _concurrent_use()
        self._is_connecting = True
        try:
            connection = await _connect(self._bind.sync_engine)
        finally:
            self._is_connecting = False
        if self.has_sync_session or self.is_ended:
            await greenlet_spawn(connection.close)
            if self.is_ended:
                raise InvalidRequestError("the session has ended before this task could use it")
            raise _concurrent_use()
        begin_use(connection)
        self._connection = connection
        return connection

    async def commit_at_end(self) -> None:
        """Commit for the last time, without the ORM's session if nothing has used it.

        After a `commit()` of the route that fails, the ORM's session refuses all but `rollback()`.
        """
        if (connection := self._connection) is None:  # another task may change it during COMMIT
            await self.commit()
        elif await postgresql.send_commit(connection):
            self._commit(connection)  # SQLAlchemy has nothing to send
        else:
            await greenlet_spawn(self._commit, connection)

    def _commit(self, connection: Connection) -> None:
        try:
            _begin(connection)
            connection.commit()
        finally:
            self._connection = None
            connection.close()

    async def close(self) -> None:
        try:
            if self._connection:
                await greenlet_spawn(self._roll_back, self._connection)
        finally:
            await super().close()

    def _roll_back(self, connection: Connection) -> None:
        self._connection = None
        try:
            _begin(connection)
            connection.close()
        except BaseException:
            if not connection.closed:  # it is if the server has closed it
                connection.invalidate()
                connection.close()
            raise

    def needs_round_trip(self) -> bool:
        """Whether the end of this session, COMMIT or ROLLBACK, has to be sent to the database."""
        if self.has_sync_session:
            return self._tracked.needs_round_trip()
        return self._connection is not None and not postgresql.needs_no_rollback(self._connection)

    def close_at_once(self) -> None:
        """Close without a round trip."""
        if self._connection:
            self._connection.close()
            self._connection = None
        elif self.has_sync_session:
            self._tracked.close()

    def abandon(self) -> None:
        """Invalidate the connections, and any that a task opens for this session later."""
        connection, self._connection = self._connection, None
        if connection and not connection.closed:
            connection.invalidate()
            connection.close()
        self._tracked.abandon()

    @property
    def _tracked(self) -> TrackedSession:
        return cast("TrackedSession", self.sync_session)


def _concurrent_use() -> InvalidRequestError:
    return InvalidRequestError(
        "This session is provisioning a new connection; concurrent operations are not permitted",
        code="isce",
    )


class _SingleConnection:
    """Has the `connect()` of an engine. It returns this connection."""

    def __init__(self, connection: Connection) -> None:
        self.connect = lambda: connection


def _begin(connection: Connection) -> None:
    """Register the transaction that a prepared statement has begun, so that SQLAlchemy ends it."""
    if not (connection.in_transaction() or connection.invalidated):
        connection.begin()


async def _connect(engine: Engine) -> Connection:
    """Return a connection. SQLAlchemy can wait in a greenlet only, which a fresh connection does not need."""
    if cast("FairPool", engine.pool).has_fresh_connection():
        try:
            return engine.connect()
        except MissingGreenlet:  # the connection needs a ping, or has to be replaced
            pass
    return await greenlet_spawn(engine.connect)


async def roll_back_and_close(session: LazySession) -> None:
    """Roll back what is not committed and return the connections.

    The rollback runs in its own task, because this task can be cancelled at every `await`. The
    cancellation is raised after the session is closed.
    """
    session.is_ended = True
    if not session.needs_round_trip():
        try:
            session.close_at_once()
        except Exception as error:
            _drop_connections(session, error)
        return
    closing = start(partial(_close, session))
    if cancelled := await wait_until_done(closing):
        raise cancelled


async def _close(session: LazySession) -> None:
    try:
        async with asyncio.timeout(ROLLBACK_TIMEOUT):
            await session.close()
    except BaseException as error:
        _drop_connections(session, error)
        if not isinstance(error, Exception):  # the event loop is shutting down
            raise


def _drop_connections(session: LazySession, error: BaseException) -> None:
    """Handle a session that cannot be closed: its server hangs or is lost, or a task still uses it.

    The error does not replace the one that ended the session's block.
    """
    logger.warning("A session could not roll back; its connection is dropped.", exc_info=error)
    session.abandon()
