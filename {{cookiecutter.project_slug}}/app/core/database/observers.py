"""Listeners, logs and spans that must see each statement, so that SQLAlchemy has to execute it."""

import logging

from sqlalchemy import Engine, event

from app.core.database.sync_session import TrackedSession
from app.core.telemetry.spans import is_traced

# Events of a session that a statement, COMMIT or ROLLBACK causes; without `after_begin`, for which
# sync_session.py has a listener.
EVENTS = (
    *("do_orm_execute", "before_commit", "after_commit", "after_rollback", "after_soft_rollback"),
    *("after_transaction_create", "after_transaction_end"),
)


class Observers:
    """The observers of an engine, without the listeners that the service has registered before."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._is_asyncpg = engine.dialect.driver == "asyncpg"
        self._executing = len(engine.dialect.dispatch.do_execute)
        self._options = engine.get_execution_options()
        sessions = TrackedSession().dispatch  # it knows of listeners that are added later, too
        self._after_begin = sessions.after_begin
        self._of_sessions = tuple(getattr(sessions, name) for name in EVENTS)
        event.listen(engine, "connect", self._count_statistics, once=True)

    def _count_statistics(self, *_: object) -> None:
        self._executing += 1  # statistics.py has added a listener

    def exist(self) -> bool:
        engine = self._engine
        return (
            not self._is_asyncpg
            or engine._has_events
            or len(engine.dialect.dispatch.do_execute) > self._executing
            or engine.get_execution_options() is not self._options
            or is_traced(engine)
            or engine.logger.isEnabledFor(logging.INFO)
            or len(self._after_begin) > 1
            or any(self._of_sessions)
        )
