"""Spans of SQL statements: their attributes, their parents, and no secrets."""

import asyncio
from collections.abc import Iterator

import pytest
from fastapi import FastAPI
from httpx2 import AsyncClient
from opentelemetry import trace
from opentelemetry.context import Context
from opentelemetry.sdk._logs import LoggerProvider
from opentelemetry.sdk._logs.export import InMemoryLogRecordExporter, SimpleLogRecordProcessor
from opentelemetry.sdk.trace import ReadableSpan, Span, SpanProcessor, TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.trace import SpanKind, StatusCode
from sqlalchemy import text

from app.core.config import get_database
from app.core.database.statistics import DatabaseStatistics, work
from app.core.db import dispose_engines, get_engine, session_scope
from app.core.telemetry.spans import MAX_STATEMENT_LENGTH
from tests.support import USERS, new_user, until, user_values

TRACE = "0af7651916cd43dd8448eb211c80319c"
SLOW = {
    "postgresql": "SELECT pg_sleep(60)",
    "sqlite": "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n) SELECT max(i) FROM n",
}


class Started(SpanProcessor):
    """Collects the texts of the statements that have started."""

    def __init__(self) -> None:
        self.texts: list[object] = []

    def on_start(self, span: Span, parent_context: Context | None = None) -> None:
        self.texts.append((span.attributes or {}).get("db.query.text"))


@pytest.fixture
def started() -> Started:
    return Started()


@pytest.fixture
def spans(
    environment: pytest.MonkeyPatch, databases: None, started: Started
) -> Iterator[InMemorySpanExporter]:
    """The spans of this test. The provider is set after the migrations."""
    exporter = InMemorySpanExporter()
    provider = TracerProvider(shutdown_on_exit=False)
    provider.add_span_processor(started)
    provider.add_span_processor(SimpleSpanProcessor(exporter))
    environment.setattr(trace, "_TRACER_PROVIDER", provider)
    yield exporter
    provider.shutdown()


def texts(spans: InMemorySpanExporter) -> dict[str, ReadableSpan]:
    """Return the span of each statement by its text; the last one if there are several."""
    return {
        str(span.attributes["db.query.text"]): span
        for span in spans.get_finished_spans()
        if span.attributes and "db.query.text" in span.attributes
    }


def named(spans: InMemorySpanExporter, name: str) -> ReadableSpan:
    [span] = [span for span in spans.get_finished_spans() if span.name == name]
    return span


def ancestors(spans: InMemorySpanExporter, span: ReadableSpan) -> Iterator[str]:
    by_id = {s.context.span_id: s for s in spans.get_finished_spans() if s.context}
    while span.parent and span.parent.span_id in by_id:
        span = by_id[span.parent.span_id]
        yield span.name


async def test_span_of_a_statement_is_within_its_request(
    spans: InMemorySpanExporter, client: AsyncClient
) -> None:
    headers = {"traceparent": f"00-{TRACE}-b7ad6b7169203331-01"}
    user = user_values()
    created = await client.post(USERS, json=user, headers=headers)

    span = named(spans, "INSERT primary")
    assert created.status_code == 201
    assert span.kind == SpanKind.CLIENT
    assert span.context
    assert f"{span.context.trace_id:032x}" == TRACE
    assert [*ancestors(spans, span)][-1] == f"POST {USERS}"
    assert span.attributes
    assert span.status.status_code == StatusCode.UNSET
    written = str(span.attributes["db.query.text"])
    assert written.startswith("INSERT INTO users ")
    assert {
        "db.system.name": get_engine().dialect.name,
        "db.namespace": "primary",
        "db.operation.name": "INSERT",
        "db.query.text": written,
    } == dict(span.attributes)


async def test_spans_of_concurrent_requests_have_their_own_traces(
    spans: InMemorySpanExporter, client: AsyncClient
) -> None:
    traces = [f"{number:032x}" for number in range(1, 6)]
    await asyncio.gather(
        *(
            client.get(USERS, headers={"traceparent": f"00-{trace}-b7ad6b7169203331-01"})
            for trace in traces
        )
    )

    statements = [
        span
        for span in spans.get_finished_spans()
        if span.attributes and "FROM users" in str(span.attributes.get("db.query.text"))
    ]
    assert traces == sorted(f"{s.context.trace_id:032x}" for s in statements if s.context)
    assert all([*ancestors(spans, span)][-1] == f"GET {USERS}" for span in statements)


async def test_span_of_an_error_has_its_code_and_no_data(
    spans: InMemorySpanExporter, client: AsyncClient
) -> None:
    user = user_values()
    await client.post(USERS, json=user)
    spans.clear()

    assert (await client.post(USERS, json=user)).status_code == 409

    span = named(spans, "INSERT primary")
    assert span.attributes
    code = "23505" if get_engine().dialect.name == "postgresql" else "SQLITE_CONSTRAINT_UNIQUE"
    assert span.attributes["error.type"] == span.attributes["db.response.status_code"] == code
    assert (StatusCode.ERROR, None) == (span.status.status_code, span.status.description)
    exported = "".join(span.to_json() for span in spans.get_finished_spans())
    url = get_database().url()
    secrets = [url.password, url.render_as_string(hide_password=False), user["email"]]
    assert not [secret for secret in secrets if secret and secret in exported]


async def test_exceptions_are_not_exported_as_log_records(
    environment: pytest.MonkeyPatch, app: FastAPI, client: AsyncClient
) -> None:
    """Their messages are in the service's own log only."""
    exporter = InMemoryLogRecordExporter()  # type: ignore[no-untyped-call]
    provider = LoggerProvider(shutdown_on_exit=False)
    provider.add_log_record_processor(SimpleLogRecordProcessor(exporter))
    environment.setattr("opentelemetry._logs._internal._LOGGER_PROVIDER", provider)

    @app.get("/fail")
    async def fail() -> None:
        raise RuntimeError("secret")

    assert (await client.get("/fail")).status_code == 500
    assert exporter.get_finished_logs() == ()
    provider.shutdown()


async def test_span_of_a_cancelled_statement_ends(
    spans: InMemorySpanExporter, started: Started
) -> None:
    async def wait() -> None:
        async with session_scope() as session:
            await session.execute(text(SLOW[session.get_bind().dialect.name]))

    task = asyncio.create_task(wait())
    await until(lambda: bool({*SLOW.values()} & {*started.texts}))
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task

    span = texts(spans)[SLOW[get_engine().dialect.name]]
    assert span.attributes
    assert span.attributes["error.type"] == "CancelledError"
    assert span.status.status_code == StatusCode.ERROR


async def test_statement_for_many_rows_is_one_span_with_truncated_text(
    spans: InMemorySpanExporter,
) -> None:
    async with session_scope() as session:
        session.add_all(new_user() for _ in range(100))

    span = named(spans, "INSERT primary")
    assert span.attributes
    assert len(str(span.attributes["db.query.text"])) <= MAX_STATEMENT_LENGTH
    if get_engine().dialect.name == "postgresql":  # SQLite gets one statement with many parameters
        assert len(str(span.attributes["db.query.text"])) == MAX_STATEMENT_LENGTH


@pytest.mark.parametrize("rows", [1, 2])
async def test_executemany_is_a_span(spans: InMemorySpanExporter, rows: int) -> None:
    delete = "DELETE FROM users WHERE name = :name"
    async with session_scope() as session:
        await session.execute(text(delete), [{"name": str(number)} for number in range(rows)])

    assert named(spans, "DELETE primary")


async def test_statement_without_parameters_is_a_span(spans: InMemorySpanExporter) -> None:
    async with get_engine().connect() as connection:
        await connection.execution_options(no_parameters=True)
        await connection.exec_driver_sql("DELETE FROM users")

    assert named(spans, "DELETE primary")


async def test_span_of_an_empty_statement_has_a_name(
    spans: InMemorySpanExporter,
) -> None:
    async with get_engine().connect() as connection:
        system = connection.dialect.name
        await connection.exec_driver_sql("")

    assert named(spans, f"{system} primary")


async def test_read_only_stream_is_a_span_and_still_has_a_transaction(
    spans: InMemorySpanExporter,
) -> None:
    async with session_scope(read_only=True) as session:
        rows = await session.stream(text("SELECT 1"))
        assert await rows.scalars().all() == [1]

    assert "SELECT 1" in texts(spans)


async def test_spans_do_not_change_the_statement_count(
    databases: None, request: pytest.FixtureRequest
) -> None:
    async def count() -> int:
        done = DatabaseStatistics()
        token = work.set(done)
        async with session_scope() as session:
            await session.execute(text("SELECT 1"))
        work.reset(token)
        await dispose_engines()
        return done.statements

    without = await count()
    spans = request.getfixturevalue("spans")

    assert without == await count()
    assert "SELECT 1" in texts(spans)


async def test_engine_is_not_changed_without_a_tracer_provider(databases: None) -> None:
    assert "do_execute" not in vars(get_engine().dialect)
