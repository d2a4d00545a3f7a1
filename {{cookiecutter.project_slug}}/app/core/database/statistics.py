"""How many statements a request has run, and how long the databases took for them."""

from contextvars import ContextVar
from dataclasses import dataclass
from functools import partial
from time import perf_counter
from typing import Any

from sqlalchemy import Engine, event
from sqlalchemy.engine import ExecutionContext


@dataclass(slots=True)
class DatabaseStatistics:
    statements: int = 0
    seconds: float = 0.0  # of them and of COMMIT; those that ran at the same time count each


work: ContextVar[DatabaseStatistics | None] = ContextVar("work", default=None)


def measure(engine: Engine) -> None:
    """Add what this engine's sessions do to the work of the request that they do it for."""

    def begin(*_: object) -> None:
        """Not before the first connection: with that one SQLAlchemy gets to know the server."""
        # Events of the dialect: one of the engine would cost each statement ten times as much.
        for name in ("do_execute", "do_executemany"):
            event.listen(engine, name, partial(_run, getattr(engine.dialect, name)))

    event.listen(engine, "connect", begin, once=True)


def _run(
    run: Any, cursor: Any, statement: str, parameters: Any, context: ExecutionContext
) -> bool | None:
    done = work.get()
    if done is None:
        return None  # and SQLAlchemy runs it
    began = perf_counter()
    try:
        run(cursor, statement, parameters, context)
    finally:
        done.statements += statement != "BEGIN"  # which is none of the service's own
        done.seconds += perf_counter() - began
    return True
