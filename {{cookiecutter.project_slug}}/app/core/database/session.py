"""The session class: how a session ends."""

from sqlalchemy import Connection, event
from sqlalchemy.exc import InvalidRequestError
from sqlalchemy.orm import Session, SessionTransaction

from app.core.database import postgresql


class TrackedSession(Session):
    """A session that can be made to give its connection back while a task still uses it."""

    connection_in_use: Connection | None = None
    is_abandoned = False

    def needs_no_commit(self) -> bool:
        """Say whether the database need not hear of the end: each statement was one of its own.

        Then there is nothing to wait for, and no need of the greenlet that a commit runs in.
        """
        connection = self.connection_in_use
        return (
            connection is not None
            and not (connection.closed or connection.invalidated)
            and postgresql.needs_no_rollback(connection)
            and self.is_active
            and not (self.new or self.dirty or self.deleted)
        )

    def abandon(self) -> None:
        """Drop the connection, or the one that a task is about to open."""
        self.is_abandoned = True
        connection = self.connection_in_use
        if connection is not None and not connection.closed:
            connection.invalidate()


@event.listens_for(TrackedSession, "after_begin")
def _track(session: TrackedSession, _: SessionTransaction, connection: Connection) -> None:
    session.connection_in_use = connection
    if session.is_abandoned:
        session.abandon()
        raise InvalidRequestError("the session has ended before this task could use it")
