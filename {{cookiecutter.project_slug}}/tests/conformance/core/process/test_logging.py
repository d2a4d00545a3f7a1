"""The request log in rarer cases: unknown paths, failed statements, COMMIT, WebSockets."""

import logging.config
import re

import pytest
from fastapi import APIRouter, FastAPI, WebSocket
from httpx2 import AsyncClient
from sqlalchemy import text
from starlette.testclient import TestClient
from starlette.types import Receive, Scope, Send

from app.core.process.logging import request_id
from app.core.web.request_logging import REQUEST_ID
from app.dependencies import SessionDep

HEX = re.compile(r"[0-9a-f]{32}")


def lines(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [r.getMessage() for r in caplog.records if r.name == "app.core.web.request_logging"]


@pytest.fixture(autouse=True)
def level(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)


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
