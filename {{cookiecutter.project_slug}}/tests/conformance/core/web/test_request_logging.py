"""RequestLoggingMiddleware: the request id, and one log line per request."""

import asyncio
import logging
import re

import pytest
from fastapi import APIRouter, FastAPI, WebSocket
from httpx2 import AsyncClient
from sqlalchemy import text
from starlette.testclient import TestClient
from starlette.types import Receive, Scope, Send

from app.core.process.logging import request_id
from app.core.web.request_logging import REQUEST_ID
from app.dependencies import ReadSessionDep, SessionDep
from tests.support import USERS

HEX = re.compile(r"[0-9a-f]{32}")


def records(caplog: pytest.LogCaptureFixture) -> list[logging.LogRecord]:
    return [r for r in caplog.records if r.name == "app.core.web.request_logging"]


def lines(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [record.getMessage() for record in records(caplog)]


@pytest.fixture(autouse=True)
def log_level(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)


@pytest.mark.sqlite  # it uses no database
async def test_id_is_kept_if_it_is_valid_and_replaced_by_a_new_one_otherwise(
    client: AsyncClient,
) -> None:
    async def returned(sent: str) -> str:
        response = await client.get("/nowhere", headers={REQUEST_ID.encode(): sent.encode()})
        [received] = response.headers.get_list(REQUEST_ID)
        return str(received)

    assert await returned("a-1_b.C:2") == "a-1_b.C:2"
    invalid = ["", " ", "a b", "x" * 129, "é", "<b>", "%0a", "a;b", '"']
    replaced = [await returned(sent) for sent in invalid]
    assert all(map(HEX.fullmatch, replaced)), replaced
    assert len({*replaced}) == len(invalid)


@pytest.mark.parametrize("path", [USERS, f"{USERS}/x", "/nowhere"])
async def test_response_has_the_request_id_of_the_client(client: AsyncClient, path: str) -> None:
    response = await client.get(path, headers={REQUEST_ID: "mine"})

    assert response.headers.get_list(REQUEST_ID) == ["mine"]


async def test_log_line_has_the_route_without_its_parameters(
    client: AsyncClient, caplog: pytest.LogCaptureFixture
) -> None:
    await client.get(f"{USERS}/8a69bb7f-37df-4248-b4aa-e14c2db1394c?token=hidden")

    [line] = lines(caplog)
    expected = USERS + r"/\{user_id\} 404 \d+\.\d ms, 1 statements \d+\.\d ms"
    assert re.fullmatch(expected, line.removeprefix("GET "))


@pytest.mark.sqlite  # it uses no database
async def test_route_can_read_the_id(app: FastAPI, client: AsyncClient) -> None:
    @app.get("/id")
    async def read() -> str:
        return request_id.get()

    response = await client.get("/id")

    assert response.json() == response.headers[REQUEST_ID]


@pytest.mark.sqlite  # it uses no database
async def test_response_and_line_of_an_unhandled_error_have_the_id_and_status_500(
    app: FastAPI, client: AsyncClient, caplog: pytest.LogCaptureFixture
) -> None:
    @app.get("/raise")
    async def fail() -> None:
        raise ZeroDivisionError

    response = await client.get("/raise", headers={REQUEST_ID: "mine"})

    assert ["mine"] == response.headers.get_list(REQUEST_ID)
    [line] = lines(caplog)
    assert line.startswith("GET /raise 500 ")


async def test_line_counts_the_statements_of_its_own_request(
    app: FastAPI, client: AsyncClient, caplog: pytest.LogCaptureFixture
) -> None:
    @app.get("/three")
    async def three(session: SessionDep, reader: ReadSessionDep) -> None:
        for one in (session, session, reader):
            await one.execute(text("SELECT 1"))

    await asyncio.gather(client.get("/three"), client.get("/health/live?x"), client.get("/nowhere"))

    by_route = {vars(record)["route"]: vars(record) for record in records(caplog)}
    assert {"/three": 3, "/nowhere": 0} == {r: v["statements"] for r, v in by_route.items()}
    assert 0 < by_route["/three"]["database_ms"] <= by_route["/three"]["duration_ms"]


async def test_failed_statement_is_counted(
    app: FastAPI, client: AsyncClient, caplog: pytest.LogCaptureFixture
) -> None:
    @app.get("/fail")
    async def fail(session: SessionDep) -> None:
        await session.execute(text("SELECT * FROM nowhere"))

    await client.get("/fail")

    [line] = lines(caplog)
    assert ", 1 statements " in line


@pytest.mark.postgresql
async def test_database_time_includes_the_commit(
    app: FastAPI, client: AsyncClient, caplog: pytest.LogCaptureFixture
) -> None:
    """The COMMIT runs a deferred trigger that sleeps for 100 ms."""

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

    [record] = records(caplog)
    assert vars(record)["database_ms"] >= 100


@pytest.mark.sqlite  # it uses no database
async def test_line_has_the_prefix_of_an_included_router(
    app: FastAPI, client: AsyncClient, caplog: pytest.LogCaptureFixture
) -> None:
    router = APIRouter(prefix="/inner")
    router.add_api_route("/{name}", lambda name: name)
    app.include_router(router, prefix="/outer")

    await client.get("/outer/inner/hidden")

    [line] = lines(caplog)
    assert line.startswith("GET /outer/inner/{name} 200 ")


@pytest.mark.sqlite  # it uses no database
async def test_successful_health_probe_is_not_logged_at_info(
    client: AsyncClient, caplog: pytest.LogCaptureFixture
) -> None:
    await client.get("/health/live")
    await client.get("/health/nope")

    [line] = lines(caplog)
    assert line.startswith("GET /health/{database} 404 ")


@pytest.mark.sqlite  # it uses no database
async def test_control_characters_of_an_unknown_path_are_escaped(
    client: AsyncClient, caplog: pytest.LogCaptureFixture
) -> None:
    await client.get("/a%0Ab%1b")

    [line] = lines(caplog)
    assert line.startswith("GET /a%0Ab%1B 404 ")


@pytest.mark.sqlite  # it uses no database
async def test_path_without_a_route_is_truncated_and_a_redirected_one_omitted(
    client: AsyncClient, caplog: pytest.LogCaptureFixture
) -> None:
    await client.get(f"{USERS}/8a69bb7f-37df-4248-b4aa-e14c2db1394c/")
    await client.get("/" + "x" * 10_000)

    redirected, long = lines(caplog)
    assert redirected.startswith("GET - 307 ")
    assert len(long) < 300


@pytest.mark.sqlite  # it uses no database
def test_websocket_is_passed_through(app: FastAPI) -> None:
    @app.websocket("/echo")
    async def echo(websocket: WebSocket) -> None:
        await websocket.accept()
        await websocket.send_text(await websocket.receive_text())

    with TestClient(app).websocket_connect("/echo") as websocket:
        websocket.send_text("hello")

        assert "hello" == websocket.receive_text()


@pytest.mark.sqlite  # it uses no database
async def test_response_without_headers_gets_the_id(app: FastAPI, client: AsyncClient) -> None:
    async def bare(scope: Scope, receive: Receive, send: Send) -> None:
        await send({"type": "http.response.start", "status": 204})
        await send({"type": "http.response.body"})

    app.mount("/bare", bare)

    response = await client.get("/bare/x", headers={REQUEST_ID: "mine"})

    assert (204, "mine") == (response.status_code, response.headers[REQUEST_ID])
