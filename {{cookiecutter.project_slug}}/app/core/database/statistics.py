"""The number of statements of a request, and the time that the databases took for them."""

from contextvars import ContextVar
from dataclasses import dataclass, field
from functools import partial
from time import perf_counter
from typing import Any

from sqlalchemy import Connection, Engine, event
from sqlalchemy.engine import ExecutionContext


@dataclass(slots=True)
class DatabaseStatistics:
    statements: int = 0
    seconds: float = 0.0  # statements and COMMIT; concurrent ones are added up
    # When the last statement or fetch of each connection ended, or its transaction began, by id.
    used: dict[int, float] = field(default_factory=dict)

    def add(self, connection: Connection, began: float, *, has_failed: bool = False) -> None:
        """Add a statement that has ended on this connection."""
        ended = self.use(id(connection), began, has_failed=has_failed)
        self.statements += 1
        self.seconds += ended - began

    def use(self, connection: int, began: float, *, has_failed: bool) -> float:
        """Record a statement or fetch, and return when it ended. One that failed does not end the idle time."""
        ended = perf_counter()
        idle = began - self.used.get(connection, began) if has_failed else 0.0
        self.used[connection] = ended - idle
        return ended

    def is_idle(self, connection: Connection | None, seconds: float) -> bool:
        """Return whether the transaction on this connection has not been used for this time."""
        now = perf_counter()
        return now - self.used.get(id(connection), now) >= seconds


@dataclass(slots=True)
class _MeasuredCursor:
    """The cursor of a stream: each fetch counts as use of its transaction."""

    cursor: Any
    done: DatabaseStatistics
    connection: int

    async def fetch(self, count: int) -> Any:
        began = perf_counter()
        has_failed = True
        try:
            rows = await self.cursor.fetch(count)
            has_failed = False
            return rows
        finally:
            self.done.use(self.connection, began, has_failed=has_failed)


RAISED = "raised"  # the execution option with the error of a statement that statement.py has run

work: ContextVar[DatabaseStatistics | None] = ContextVar("work", default=None)


def begin_use(connection: Connection) -> None:
    """Record that a transaction begins on this connection."""
    if done := work.get():
        done.used[id(connection)] = perf_counter()


def measure(engine: Engine) -> None:
    """Add the statements of this engine's sessions to the statistics of their request."""

    def begin(*_: object) -> None:
        # Dialect events: an engine event would cost each statement ten times as much.
        for name in ("do_execute", "do_executemany"):
            event.listen(engine, name, partial(_run, getattr(engine.dialect, name)))

    # SQLAlchemy inspects the server on its first connection. Those statements are not counted.
    event.listen(engine, "connect", begin, once=True)


def _run(
    run: Any, cursor: Any, statement: str, parameters: Any, context: ExecutionContext
) -> bool | None:
    if error := context.execution_options.get(RAISED):
        raise error
    done = work.get()
    if done is None:
        return None  # SQLAlchemy runs the statement
    began = perf_counter()
    connection = context.root_connection
    has_failed = True
    try:
        run(cursor, statement, parameters, context)
        if getattr(cursor, "server_side", False) and context.dialect.driver == "asyncpg":
            cursor._cursor = _MeasuredCursor(cursor._cursor, done, id(connection))
        has_failed = False
    finally:
        done.add(connection, began, has_failed=has_failed)
        if statement == "BEGIN":  # sqlite.py sends it, and not the route
            done.statements -= 1
    return True
