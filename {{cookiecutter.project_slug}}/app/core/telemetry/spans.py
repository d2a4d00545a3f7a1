"""A span for each SQL statement, if a tracer provider is set."""

from collections.abc import Callable
from typing import Any

from opentelemetry import trace
from opentelemetry.trace import SpanKind, StatusCode
from sqlalchemy import Engine

from app import __version__

MAX_STATEMENT_LENGTH = 2000  # characters; an INSERT of 1,000 rows can be 100 times as long


def has_tracer_provider() -> bool:
    """Return whether this service, or another tool, has set a tracer provider."""
    return not isinstance(trace.get_tracer_provider(), trace.ProxyTracerProvider)


def trace_statements(engine: Engine, database: str) -> None:
    """Record a span for each statement of the engine, as a child of the current (request's) span.

    A span has the text of the statement. It never has parameters, nor the message of an error,
    which may contain them. Without a tracer provider the engine is not changed.
    https://opentelemetry.io/docs/specs/semconv/database/database-spans/
    """
    if not has_tracer_provider():
        return
    tracer = trace.get_tracer(__name__, __version__)
    system = engine.dialect.name

    def traced(run: Callable[..., None]) -> Callable[..., None]:
        def run_traced(cursor: Any, statement: str, *others: Any) -> None:
            operation = statement.split(None, 1)[0].upper() if statement.strip() else system
            attributes = {
                "db.system.name": system,
                "db.namespace": database,
                "db.operation.name": operation,
                "db.query.text": statement[:MAX_STATEMENT_LENGTH],
            }
            with tracer.start_as_current_span(
                f"{operation} {database}",
                kind=SpanKind.CLIENT,
                attributes=attributes,
                record_exception=False,
                set_status_on_exception=False,
            ) as span:
                try:
                    run(cursor, statement, *others)
                except BaseException as error:
                    span.set_attributes(_error_attributes(error))
                    span.set_status(StatusCode.ERROR)
                    raise

        return run_traced

    # The dialect's methods are wrapped because events cannot do this: SQLAlchemy calls only the
    # first `do_execute` listener that handles the statement, and none after a cancelled statement.
    for name in ("do_execute", "do_executemany", "do_execute_no_params"):
        setattr(engine.dialect, name, traced(getattr(engine.dialect, name)))


def is_traced(engine: Engine) -> bool:
    """Return whether spans are recorded for the statements of this engine."""
    return "do_execute" in vars(engine.dialect)


def _error_attributes(error: BaseException) -> dict[str, str]:
    code = getattr(error, "sqlstate", None) or getattr(error, "sqlite_errorname", None)
    if code:
        return {"error.type": code, "db.response.status_code": code}
    return {"error.type": type(error).__qualname__}
