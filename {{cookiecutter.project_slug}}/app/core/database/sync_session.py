"""The ORM's session inside of an `AsyncSession`, with a record of its connections."""

from sqlalchemy import Connection, event
from sqlalchemy.exc import InvalidRequestError
from sqlalchemy.orm import Session, SessionTransaction

from app.core.database import postgresql
from app.core.database.statistics import begin_use


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

    def track(self, connection: Connection) -> None:
        """Record a connection that a prepared statement has used."""
        self._opened = (*self.connections, connection)

    def abandon(self) -> None:
        """Invalidate the connections, and any that a task opens for this session later."""
        self.is_abandoned = True
        for connection in self.connections:
            connection.invalidate()


@event.listens_for(TrackedSession, "after_begin")
def _track(session: TrackedSession, _: SessionTransaction, connection: Connection) -> None:
    if connection not in session._opened:  # a savepoint begins on the same connection
        begin_use(connection)
        session.track(connection)
    if session.is_abandoned:
        session.abandon()
        raise InvalidRequestError("the session has ended before this task could use it")
