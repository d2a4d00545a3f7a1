"""Each request has an id and a line."""

import logging
import re

import pytest
from fastapi import FastAPI, WebSocket
from httpx2 import AsyncClient
from starlette.testclient import TestClient
from starlette.types import Receive, Scope, Send

from app.core.logging import REQUEST_ID, request_id

HEX = re.compile(r"[0-9a-f]{32}")


def lines(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [r.getMessage() for r in caplog.records if r.name == "app.core.logging"]


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
    assert re.fullmatch(r"GET /users/\{user_id\} 404 \d+\.\d ms", line)


async def test_line_of_an_unknown_path_is_one_line(
    client: AsyncClient, caplog: pytest.LogCaptureFixture
) -> None:
    await client.get("/a%0Ab%1b")

    [line] = lines(caplog)
    assert line.startswith("GET /a%0Ab%1B 404 ")


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
