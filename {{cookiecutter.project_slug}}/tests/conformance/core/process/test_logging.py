"""Each request has an id and a line."""

import asyncio
import io
import json
import logging.config
import re
import sys
from collections.abc import Callable, Iterator
from datetime import datetime

import pytest
from fastapi import APIRouter, FastAPI, WebSocket
from httpx2 import AsyncClient
from sqlalchemy import text
from starlette.testclient import TestClient
from starlette.types import Receive, Scope, Send

from app.core.process.logging import QUIET, logging_config, request_id
from app.core.web.request_logging import REQUEST_ID
from app.dependencies import ReadSessionDep, SessionDep

HEX = re.compile(r"[0-9a-f]{32}")


def lines(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [r.getMessage() for r in caplog.records if r.name == "app.core.web.request_logging"]


@pytest.fixture(autouse=True)
def level(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)


async def test_id_of_the_client_is_kept(client: AsyncClient) -> None:
    answer = await client.get("/users", headers={REQUEST_ID: "a-1_b.C:2"})

    assert ["a-1_b.C:2"] == answer.headers.get_list(REQUEST_ID)


@pytest.mark.parametrize("insane", ["", " ", "a b", "x" * 129, "é", "<b>", "%0a", "a;b", '"'])
async def test_id_that_is_not_fit_to_be_logged_is_replaced(
    client: AsyncClient, insane: str
) -> None:
    answer = await client.get("/users", headers={REQUEST_ID.encode(): insane.encode()})

    assert HEX.fullmatch(answer.headers[REQUEST_ID])


async def test_ids_that_are_made_differ(client: AsyncClient) -> None:
    assert 2 == len({(await client.get("/users")).headers[REQUEST_ID] for _ in range(2)})


async def test_id_is_known_wherever_the_request_is_dealt_with(
    app: FastAPI, client: AsyncClient
) -> None:
    @app.get("/id")
    async def read() -> str:
        return request_id.get()

    answer = await client.get("/id")

    assert answer.json() == answer.headers[REQUEST_ID]


@pytest.mark.parametrize("path", ["/users", "/users/x", "/nowhere", "/raise"])
async def test_every_answer_has_one_id_an_error_too(
    app: FastAPI, client: AsyncClient, path: str
) -> None:
    @app.get("/raise")
    async def fail() -> None:
        raise ZeroDivisionError

    answer = await client.get(path, headers={REQUEST_ID: "mine"})

    assert ["mine"] == answer.headers.get_list(REQUEST_ID)


async def test_line_has_the_route_and_neither_its_parameters_nor_the_query(
    client: AsyncClient, caplog: pytest.LogCaptureFixture
) -> None:
    await client.get("/users/8a69bb7f-37df-4248-b4aa-e14c2db1394c?token=hidden")

    [line] = lines(caplog)
    assert re.fullmatch(r"GET /users/\{user_id\} 404 \d+\.\d ms, 1 statements \d+\.\d ms", line)


async def test_line_counts_the_statements_of_its_own_request(
    app: FastAPI, client: AsyncClient, caplog: pytest.LogCaptureFixture
) -> None:
    @app.get("/three")
    async def three(session: SessionDep, reader: ReadSessionDep) -> None:
        for one in (session, session, reader):
            await one.execute(text("SELECT 1"))

    await asyncio.gather(client.get("/three"), client.get("/health/live?x"), client.get("/nowhere"))

    records = [r for r in caplog.records if r.name == "app.core.web.request_logging"]
    counts = {vars(r)["route"]: vars(r)["statements"] for r in records}
    assert counts == {"/three": 3, "/nowhere": 0}
    [three_of_them] = [vars(r) for r in records if vars(r)["route"] == "/three"]
    assert 0 < three_of_them["database_ms"] <= three_of_them["duration_ms"]


async def test_line_of_a_failed_statement_counts_it(
    app: FastAPI, client: AsyncClient, caplog: pytest.LogCaptureFixture
) -> None:
    @app.get("/fail")
    async def fail(session: SessionDep) -> None:
        await session.execute(text("SELECT * FROM nowhere"))

    await client.get("/fail")

    [line] = lines(caplog)
    assert ", 1 statements " in line


@pytest.mark.postgresql
async def test_time_of_the_database_is_also_that_of_a_commit(
    app: FastAPI, client: AsyncClient, caplog: pytest.LogCaptureFixture
) -> None:
    """A constraint that is deferred is checked then, and here takes its time."""

    @app.get("/slow")
    async def slow(session: SessionDep) -> None:
        for statement in (
            "CREATE TABLE things (id INTEGER)",
            "CREATE FUNCTION wait() RETURNS trigger LANGUAGE plpgsql "
            "AS $$BEGIN PERFORM pg_sleep(0.1); RETURN NULL; END$$",
            "CREATE CONSTRAINT TRIGGER wait AFTER INSERT ON things DEFERRABLE INITIALLY DEFERRED "
            "FOR EACH ROW EXECUTE FUNCTION wait()",
            "INSERT INTO things VALUES (1)",
        ):
            await session.execute(text(statement))

    await client.get("/slow")

    [record] = [r for r in caplog.records if r.name == "app.core.web.request_logging"]
    assert vars(record)["database_ms"] >= 100


async def test_line_has_the_prefix_of_an_included_router(
    app: FastAPI, client: AsyncClient, caplog: pytest.LogCaptureFixture
) -> None:
    router = APIRouter(prefix="/inner")
    router.add_api_route("/{name}", lambda name: name)
    app.include_router(router, prefix="/outer")

    await client.get("/outer/inner/hidden")

    [line] = lines(caplog)
    assert line.startswith("GET /outer/inner/{name} 200 ")


async def test_health_is_no_news_while_it_is_good(
    client: AsyncClient, caplog: pytest.LogCaptureFixture
) -> None:
    await client.get("/health/live")
    await client.get("/health/nope")

    [line] = lines(caplog)
    assert line.startswith("GET /health/{database} 404 ")


@pytest.fixture
def configure_logging(
    monkeypatch: pytest.MonkeyPatch,
) -> Iterator[Callable[[str, str], io.StringIO]]:
    """Log as the service does, at a level and in a format; return what is written."""
    loggers = [logging.getLogger(name) for name in (None, *QUIET)]
    before = [(logger, logger.level, logger.handlers[:]) for logger in loggers]

    def configure_logging(level: str, log_format: str) -> io.StringIO:
        written = io.StringIO()
        monkeypatch.setattr(sys, "stderr", written)
        logging.config.dictConfig(logging_config(level, log_format))
        return written

    yield configure_logging
    for logger, level, handlers in before:
        logger.setLevel(level)
        logger.handlers[:] = handlers


async def test_parameters_are_in_no_log_at_any_level(
    client: AsyncClient, configure_logging: Callable[[str, str], io.StringIO]
) -> None:
    written = configure_logging("DEBUG", "text")

    await client.post("/users", json={"name": "hush", "email": "hush@example.com"})

    assert "POST /users 201" in written.getvalue()
    assert "hush" not in written.getvalue()


async def test_production_logs_json(
    app: FastAPI, client: AsyncClient, configure_logging: Callable[[str, str], io.StringIO]
) -> None:
    written = configure_logging("INFO", "json")

    @app.get("/fail")
    async def fail() -> None:
        logging.getLogger("uvicorn.error").info("one\n%s", "two", extra={"color_message": "red"})
        logging.getLogger("sqlalchemy.engine").warning("SELECT")
        raise ZeroDivisionError

    await client.get("/fail", headers={REQUEST_ID: "mine"})

    documents = [json.loads(line) for line in written.getvalue().splitlines()]
    documents = [d for d in documents if d["logger"] != "httpx2"]  # the client's
    assert [d["logger"] for d in documents] == [
        "uvicorn.error",
        "sqlalchemy.engine",
        "app.core.web.request_logging",
    ]
    assert {"mine"} == {d["request_id"] for d in documents}
    assert documents[0]["message"] == "one\ntwo"
    assert "color_message" not in documents[0]
    assert {
        "level": "INFO",
        "method": "GET",
        "route": "/fail",
        "status": 500,
        "statements": 0,
        "database_ms": 0.0,
    }.items() <= documents[-1].items()
    assert datetime.fromisoformat(documents[-1]["timestamp"]).tzinfo


async def test_line_of_an_unknown_path_is_one_line(
    client: AsyncClient, caplog: pytest.LogCaptureFixture
) -> None:
    await client.get("/a%0Ab%1b")

    [line] = lines(caplog)
    assert line.startswith("GET /a%0Ab%1B 404 ")


async def test_line_of_an_unknown_path_is_short_and_of_a_redirected_one_has_none(
    client: AsyncClient, caplog: pytest.LogCaptureFixture
) -> None:
    await client.get("/users/8a69bb7f-37df-4248-b4aa-e14c2db1394c/")
    await client.get("/" + "x" * 10_000)

    redirected, long = lines(caplog)
    assert redirected.startswith("GET - 307 ")
    assert len(long) < 300


async def test_line_of_an_error_says_500(
    app: FastAPI, client: AsyncClient, caplog: pytest.LogCaptureFixture
) -> None:
    @app.get("/raise")
    async def fail() -> None:
        raise ZeroDivisionError

    await client.get("/raise")

    [line] = lines(caplog)
    assert line.startswith("GET /raise 500 ")


def test_websocket_passes(app: FastAPI) -> None:
    @app.websocket("/echo")
    async def echo(websocket: WebSocket) -> None:
        await websocket.accept()
        await websocket.send_text(await websocket.receive_text())

    with TestClient(app).websocket_connect("/echo") as websocket:
        websocket.send_text("hello")

        assert "hello" == websocket.receive_text()


async def test_answer_of_an_app_that_sends_no_headers_passes(
    app: FastAPI, client: AsyncClient
) -> None:
    async def bare(scope: Scope, receive: Receive, send: Send) -> None:
        await send({"type": "http.response.start", "status": 204})
        await send({"type": "http.response.body"})

    app.mount("/bare", bare)

    answer = await client.get("/bare/x", headers={REQUEST_ID: "mine"})

    assert (204, "mine") == (answer.status_code, answer.headers[REQUEST_ID])
