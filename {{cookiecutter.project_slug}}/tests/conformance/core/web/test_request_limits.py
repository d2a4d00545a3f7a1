"""RequestLimitsProtocol: responses to several requests of one connection, and the request log."""

import asyncio
import logging
import re
from collections.abc import AsyncGenerator, Callable
from contextlib import asynccontextmanager, suppress
from typing import NamedTuple

import pytest
from fastapi import FastAPI, Request, Response
from httpx2 import AsyncClient
from starlette.responses import StreamingResponse

from app.core.config import get_settings
from tests.support import until

pytestmark = pytest.mark.sqlite  # no test uses a database

TIMEOUT = 0.2  # seconds
HOST = b" HTTP/1.1\r\nHost: a\r\n"
TOO_MUCH = b"x" * 70_000  # bytes: more than MAX_HEAD_SIZE


class Connection(NamedTuple):
    reader: asyncio.StreamReader
    send: Callable[[bytes], None]

    async def responses(self) -> list[tuple[int, str]]:
        """Read until the server closes. Return the status and the body of each response."""
        received = b""
        with suppress(ConnectionError):
            async with asyncio.timeout(30):
                while chunk := await self.reader.read(2**20):
                    received += chunk
        _, *parts = re.split(r"HTTP/1\.1 (?=\d{3} )", received.decode())
        return [(int(part[:3]), part.partition("\r\n\r\n")[2]) for part in parts]


@asynccontextmanager
async def connected(server: AsyncClient) -> AsyncGenerator[Connection, None]:
    url = server.base_url
    reader, writer = await asyncio.open_connection(url.host, url.port)
    try:
        yield Connection(reader, writer.write)
    finally:
        writer.close()
        with suppress(ConnectionError):
            await writer.wait_closed()


@pytest.fixture(autouse=True)
def limits(environment: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    environment.setenv("REQUEST_TIMEOUT", str(TIMEOUT))
    environment.setenv("WRITE_TIMEOUT", "0")
    get_settings.cache_clear()
    caplog.set_level(logging.INFO, "app")


@pytest.fixture
def events(app: FastAPI) -> dict[str, asyncio.Event]:
    """Events of the routes /wait and /stream: "begun", "ended", and "go on", which they wait for."""
    events = {name: asyncio.Event() for name in ("begun", "go on", "ended")}

    async def chunks() -> AsyncGenerator[str, None]:
        yield "first"
        events["begun"].set()
        await events["go on"].wait()
        yield "last"

    @app.api_route("/wait", methods=["GET", "POST"])
    async def wait() -> Response:
        events["begun"].set()
        try:
            await events["go on"].wait()
        finally:
            events["ended"].set()
        return Response("waited")

    @app.get("/stream")
    async def stream() -> StreamingResponse:
        return StreamingResponse(chunks())

    return events


BODY = b"POST /wait" + HOST
REFUSED = {  # sent with the requests before it, and later
    "no HTTP": (b"\x16\x03\x01\x02\x00\r\n\r\n", b"more", 400),
    "an invalid URL": (b"GET http://a:b:c" + HOST + b"\r\n", b"more", 400),
    "a large header": (b"GET /" + HOST, b"X: " + TOO_MUCH, 431),
    "a large URL": (b"GET /", TOO_MUCH, 414),
    "an invalid chunk": (BODY + b"Transfer-Encoding: chunked\r\n\r\nx", b"more", 400),
    "a slow body": (BODY + b"Content-Length: 9\r\n\r\n{", b"", 408),
}


@pytest.mark.parametrize("path", ["/wait", "/stream"])
@pytest.mark.parametrize("case", REFUSED)
async def test_refusal_follows_the_responses_to_earlier_requests(
    server: AsyncClient,
    events: dict[str, asyncio.Event],
    caplog: pytest.LogCaptureFixture,
    case: str,
    path: str,
) -> None:
    refused, rest, status = REFUSED[case]
    request = b"GET " + path.encode() + HOST + b"\r\n"

    async with connected(server) as connection:
        connection.send(request + request + refused)
        await events["begun"].wait()
        connection.send(rest)
        await until(lambda: f"A request was refused: {status}" in caplog.text)
        events["go on"].set()
        first, second, third = await connection.responses()

    assert first == second
    assert first[0] == 200
    assert first[1].endswith("waited" if path == "/wait" else "last\r\n0\r\n\r\n")
    assert (status, f'"status":{status}' in third[1]) == (third[0], True)


@pytest.mark.parametrize(
    "body", [b"Content-Length: 9\r\n\r\n{", b"Transfer-Encoding: chunked\r\n\r\n"]
)
@pytest.mark.parametrize("rest", [b"", b"x"], ids=["slow", "invalid"])
async def test_body_that_is_refused_after_the_response_gets_no_second_response(
    app: FastAPI, server: AsyncClient, body: bytes, rest: bytes
) -> None:
    @app.post("/early")
    async def early() -> Response:
        return Response("early")

    async with connected(server) as connection:
        connection.send(b"POST /early" + HOST + body)
        await connection.reader.readuntil(b"early")
        connection.send(rest)

        assert await connection.responses() == []


async def test_refused_request_is_cancelled_although_the_refusal_waits_in_a_buffer(
    app: FastAPI, server: AsyncClient, events: dict[str, asyncio.Event]
) -> None:
    @app.get("/large")
    async def large() -> Response:
        return Response(bytes(20 * 2**20))

    async with connected(server) as connection:
        connection.send(b"GET /large" + HOST + b"\r\n")
        connection.send(b"POST /wait" + HOST + b"Content-Length: 9\r\n\r\n{")
        async with asyncio.timeout(10):
            await events["ended"].wait()

        assert [200, 408] == [status for status, _ in await connection.responses()]


async def test_disconnect_cancels_the_running_one_of_several_requests(
    server: AsyncClient, events: dict[str, asyncio.Event]
) -> None:
    async with connected(server) as connection:
        connection.send((b"GET /wait" + HOST + b"\r\n") * 2)
        await events["begun"].wait()

    async with asyncio.timeout(10):
        await events["ended"].wait()


@pytest.mark.parametrize("rest", [b"\r\n", b"GET /sl"], ids=["CRLF", "head"])
async def test_next_request_that_begins_slowly_does_not_cut_a_running_response(
    server: AsyncClient, events: dict[str, asyncio.Event], rest: bytes
) -> None:
    async with connected(server) as connection:
        connection.send(b"GET /wait" + HOST + b"\r\n")
        await events["begun"].wait()
        connection.send(rest)
        asyncio.get_running_loop().call_later(5 * TIMEOUT, events["go on"].set)
        first, *refusals = await connection.responses()

    assert first == (200, "waited")
    assert [status for status, _ in refusals] == ([] if rest == b"\r\n" else [408])


async def test_request_log_shows_the_status_of_a_refused_body(
    app: FastAPI, server: AsyncClient, caplog: pytest.LogCaptureFixture
) -> None:
    @app.post("/body")
    async def body(request: Request) -> None:
        await request.body()

    async with connected(server) as connection:
        connection.send(b"POST /body" + HOST + b"Content-Length: 9\r\n\r\n{")

        [(status, _)] = await connection.responses()
        assert status == 408
        await until(lambda: "POST /body" in caplog.text)
        assert "POST /body 408 " in caplog.text
