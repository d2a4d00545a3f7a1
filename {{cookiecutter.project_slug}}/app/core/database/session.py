"""How a session ends: commit, or roll back, and return its connections in every case."""

import asyncio
import logging
from functools import partial
from time import perf_counter
from typing import cast

from sqlalchemy import Connection, event
from sqlalchemy.exc import InvalidRequestError
from sqlalchemy.ext.asyncio import AsyncSession
from sqlalchemy.orm import Session, SessionTransaction

from app.core.database import postgresql
from app.core.database.statistics import work
from app.core.database.tasks import start, wait_until_done

ROLLBACK_TIMEOUT = 5.0  # seconds, after which the connection is closed instead

logger = logging.getLogger(__name__)


class TrackedSession(Session):
    """A session that records its connections, so that it can invalidate them while a task uses them."""

    is_abandoned = False
    _opened: tuple[Connection, ...] = ()  # more than one if `bind_arguments` name another engine

    @property
    def connections(self) -> list[Connection]:
        """The connections of the current transaction."""
        return [connection for connection in self._opened if not connection.closed]

    def needs_round_trip(self) -> bool:
        """Whether the end of this session, COMMIT or ROLLBACK, has to be sent to the database.

        False for an unused session and for a read-only session in AUTOCOMMIT. These close without
        the greenlet in which SQLAlchemy runs a commit.
        """
        if not self.in_transaction():
            return False
        connections = self.connections
        if not connections or not self.is_active:
            return True
        for connection in connections:
            if not postgresql.needs_no_rollback(connection):
                return True
        return bool(self.new or self.dirty or self.deleted)

    def abandon(self) -> None:
        """Invalidate the connections, and any that a task opens for this session later."""
        self.is_abandoned = True
        for connection in self.connections:
            connection.invalidate()


@event.listens_for(TrackedSession, "after_begin")
def _track(session: TrackedSession, _: SessionTransaction, connection: Connection) -> None:
    if connection not in session._opened:  # a savepoint begins on the same connection
        if done := work.get():
            done.used[id(connection)] = perf_counter()
        session._opened = (*session.connections, connection)
    if session.is_abandoned:
        session.abandon()
        raise InvalidRequestError("the session has ended before this task could use it")


def needs_commit(session: AsyncSession) -> bool:
    """Whether the session has anything to commit."""
    return _tracked(session).needs_round_trip()


async def roll_back_and_close(session: AsyncSession) -> None:
    """Roll back what is not committed and return the connections.

    The rollback runs in its own task, because this task can be cancelled at every `await`. The
    cancellation is raised after the session is closed.
    """
    tracked = _tracked(session)
    if not tracked.needs_round_trip():
        try:
            tracked.close()  # without a round trip
        except Exception as error:
            _drop_connections(tracked, error)
        return
    closing = start(partial(_close, session))
    if cancelled := await wait_until_done(closing):
        raise cancelled


async def _close(session: AsyncSession) -> None:
    try:
        async with asyncio.timeout(ROLLBACK_TIMEOUT):
            await session.close()
    except BaseException as error:
        _drop_connections(_tracked(session), error)
        if not isinstance(error, Exception):  # the event loop is shutting down
            raise


def _drop_connections(session: TrackedSession, error: BaseException) -> None:
    """Handle a session that cannot be closed: its server hangs or is lost, or a task still uses it.

    The error does not replace the one that ended the session's block.
    """
    logger.warning("A session could not roll back; its connection is dropped.", exc_info=error)
    session.abandon()


def _tracked(session: AsyncSession) -> TrackedSession:
    return cast("TrackedSession", session.sync_session)
