"""A span for each statement, where OpenTelemetry has somebody to send it to."""

from collections.abc import Callable
from typing import Any

from opentelemetry import trace
from opentelemetry.trace import SpanKind, StatusCode
from sqlalchemy import Engine

from app import __version__

LONGEST_TEXT = 2000  # characters: a statement for a thousand rows may have hundred times as many


def spans_are_wanted() -> bool:
    """Say whether anybody, we or somebody else, has set a provider of spans."""
    return not isinstance(trace.get_tracer_provider(), trace.ProxyTracerProvider)


def trace_statements(engine: Engine, database: str) -> None:
    """Let each statement of the engine be a span within the one that is current, a request's say.

    It has the statement's text and never its parameters, nor the message of an error, which may hold
    them. Where no provider of spans is set, the engine is left as it is.
    https://opentelemetry.io/docs/specs/semconv/database/database-spans/
    """
    if not spans_are_wanted():
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
                "db.query.text": statement[:LONGEST_TEXT],
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
                    span.set_attributes(_of_error(error))
                    span.set_status(StatusCode.ERROR)
                    raise

        return run_traced

    # Around the execution, and no listener: of those that execute SQLAlchemy calls the first only, and
    # after a statement that is cancelled nobody is called.
    for name in ("do_execute", "do_executemany", "do_execute_no_params"):
        setattr(engine.dialect, name, traced(getattr(engine.dialect, name)))


def _of_error(error: BaseException) -> dict[str, str]:
    code = getattr(error, "sqlstate", None) or getattr(error, "sqlite_errorname", None)
    if code:
        return {"error.type": code, "db.response.status_code": code}
    return {"error.type": type(error).__qualname__}
