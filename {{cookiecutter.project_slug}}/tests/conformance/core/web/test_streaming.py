"""Streaming responses: compression, early errors, and closing the source."""

import asyncio
import gzip
from collections.abc import AsyncGenerator
from contextlib import suppress

import pytest
from fastapi import FastAPI
from fastapi.responses import StreamingResponse
from httpx2 import AsyncClient
from sqlalchemy import text
from sqlalchemy.exc import DBAPIError, InvalidRequestError, OperationalError
from sqlalchemy.ext.asyncio import AsyncSession

from app.core.config import get_settings
from app.core.db import session_scope
from app.core.web.request_limits import RequestLimitsProtocol
from app.core.web.streaming import Stream, _accepts_gzip, stream
from tests.inspection import checked_out, driver, fetch, kill, pid
from tests.support import USERS, configure, disconnecting, problem, serve, until

ACCEPTING = ["gzip", "GZIP", "br, gzip", "gzip;q=0.5", "deflate,gzip ; q=1", "gzip;q=0.001"]
REFUSING = [
    "",
    "*",
    "identity",
    "gzip;q=0",
    "gzip; q=0.000",
    "br",
    "x-gzip-like",
    ",;,",
    "gzip;Q=0",
]


@pytest.mark.parametrize("accept", ACCEPTING)
def test_gzip_is_accepted(accept: str) -> None:
    assert _accepts_gzip(accept)


@pytest.mark.parametrize("accept", REFUSING)
def test_gzip_is_not_accepted(accept: str) -> None:
    assert not _accepts_gzip(accept)


async def numbers(count: int) -> AsyncGenerator[bytes, None]:
    for number in range(count):
        yield b"%d\n" % number


@pytest.mark.sqlite  # it uses no database
async def test_compressed_stream_has_the_same_content(app: FastAPI, client: AsyncClient) -> None:
    @app.get("/plain/{count}")
    async def plain(count: int) -> Stream:
        return await stream(numbers(count), "text/plain")

    @app.get("/compressed/{count}")
    async def compressed(count: int) -> Stream:
        return await stream(numbers(count), "text/plain", "gzip")

    client.headers["Accept-Encoding"] = "identity"  # middleware compresses nothing more
    for count in (0, 1, 5_000):
        one, other = [await client.get(f"/{name}/{count}") for name in ("plain", "compressed")]

        lines = b"".join([b"%d\n" % number for number in range(count)])
        assert lines == one.content == other.content
        assert "gzip" == other.headers["content-encoding"]
        assert "content-encoding" not in one.headers
        for response in (one, other):  # middleware may add names, and this one again
            assert "Accept-Encoding" in response.headers["vary"].split(", ")


async def test_compressed_stream_is_a_gzip_file() -> None:
    response = await stream(numbers(5_000), "text/plain", "gzip")

    chunks = [bytes(chunk) async for chunk in response.body_iterator if not isinstance(chunk, str)]

    assert b"4999" in gzip.decompress(b"".join(chunks))
    assert len(b"".join(chunks)) < 15_000


@pytest.mark.sqlite  # it uses no database
async def test_error_before_the_first_chunk_is_an_error_response(
    app: FastAPI, client: AsyncClient
) -> None:
    async def broken() -> AsyncGenerator[bytes, None]:
        raise ZeroDivisionError
        yield b""

    @app.get("/broken")
    async def route() -> Stream:
        return await stream(broken(), "text/plain", "gzip")

    assert problem(await client.get("/broken"))["status"] == 500


@pytest.mark.sqlite  # it uses no database
@pytest.mark.parametrize("accept", ["", "gzip"])
async def test_disconnect_closes_the_source(app: FastAPI, server: AsyncClient, accept: str) -> None:
    ended = asyncio.Event()

    async def endless() -> AsyncGenerator[bytes, None]:
        try:
            while True:
                yield bytes(range(256)) * 100
                await asyncio.sleep(0)
        finally:
            ended.set()

    @app.get("/endless")
    async def route() -> Stream:
        return await stream(endless(), "text/plain", accept)

    async with disconnecting(server, "GET", "/endless") as reader:
        await reader.read(1000)
    await until(ended.is_set)


# A client that does not read the response


@pytest.mark.sqlite  # it uses no database
@pytest.mark.parametrize("header", ["Connection: close", "Connection: keep-alive"])
async def test_connection_closes_although_its_client_never_reads_the_last_bytes(
    app: FastAPI, environment: pytest.MonkeyPatch, header: str
) -> None:
    environment.setenv("WRITE_TIMEOUT", "0.3")
    get_settings.cache_clear()
    protocols: list[RequestLimitsProtocol] = []
    lost: list[RequestLimitsProtocol] = []

    class Protocol(RequestLimitsProtocol):
        def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
            super().connection_made(transport)
            protocols.append(self)
            self.timeout_keep_alive = 0

        def connection_lost(self, exc: Exception | None) -> None:
            super().connection_lost(exc)
            lost.append(self)

    async def until_bytes_wait() -> AsyncGenerator[bytes, None]:
        while not protocols[-1].transport.get_write_buffer_size():
            yield bytes(10_000)

    @app.get("/unread")
    async def unread() -> StreamingResponse:
        return StreamingResponse(until_bytes_wait())

    environment.setattr("tests.support.RequestLimitsProtocol", Protocol)
    async with serve(app) as server, disconnecting(server, "GET", "/unread", header):
        await until(lambda: bool(protocols and lost == protocols[-1:]))


STALLED = """
SELECT 1 FROM pg_stat_activity WHERE state = 'idle in transaction' AND state_change < now() - interval '1 s'
"""


@pytest.fixture
def export(app: FastAPI, single_connection: None) -> list[int]:
    """Add endless streams, each with a session, to the app; the list gets their process IDs."""
    pids: list[int] = []

    async def rows(session: AsyncSession) -> AsyncGenerator[bytes, None]:
        wide = text("SELECT repeat('x', 9999) FROM generate_series(1, 1000000)")
        pids.append(await pid(session))
        async for row in await session.stream(wide.execution_options(yield_per=10)):
            yield row[0].encode()

    async def read_only() -> AsyncGenerator[bytes, None]:
        async with session_scope(read_only=True) as session:
            async for chunk in rows(session):
                yield chunk

    async def writing() -> AsyncGenerator[bytes, None]:
        async with session_scope() as session:
            async for chunk in rows(session):
                yield chunk

    @app.get("/stream")
    async def of_the_service() -> Stream:
        return await stream(read_only(), "text/plain")

    @app.get("/plain")
    async def of_starlette() -> StreamingResponse:
        return StreamingResponse(writing())

    return pids


@pytest.mark.postgresql
@pytest.mark.parametrize("path", ["/stream", "/plain"])
async def test_client_that_does_not_read_loses_its_connection_after_the_write_timeout(
    export: list[int],
    server: AsyncClient,
    environment: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    path: str,
) -> None:
    environment.setenv("WRITE_TIMEOUT", "0.3")
    get_settings.cache_clear()

    async with disconnecting(server, "GET", path) as reader:
        await until(lambda: bool(export and checked_out()))
        await until(lambda: not checked_out(), 60)

        assert (await server.get(USERS)).status_code == 200
        received = b""
        with suppress(ConnectionResetError):
            while chunk := await reader.read(65536):
                received = chunk
        assert not received.endswith(b"0\r\n\r\n")  # a complete response ends so
    assert "The client has not read 64 KiB within WRITE_TIMEOUT=0.3 s" in caplog.text
    assert "Traceback" not in caplog.text


@pytest.mark.postgresql
@pytest.mark.parametrize(
    ("path", "pgbouncer"), [("/stream", False), ("/stream", True), ("/plain", False)]
)
async def test_stream_whose_server_has_ended_releases_its_connection_before_the_client_reads(
    export: list[int],
    server: AsyncClient,
    environment: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    path: str,
    pgbouncer: bool,
) -> None:
    caplog.set_level("INFO")
    configure(environment, pgbouncer=pgbouncer)

    async def is_stalled() -> bool:
        return bool(await fetch(STALLED))

    async with disconnecting(server, "GET", path) as reader:
        await reader.readline()
        await until(is_stalled, 60)
        await kill(*export)
        await until(lambda: not checked_out())

        assert (await server.get(USERS)).status_code == 200
    await until(lambda: f"GET {path}" in caplog.text)
    assert "AttributeError" not in caplog.text
    assert "Traceback" not in caplog.text


MANY = text("SELECT generate_series(1, 1000)").execution_options(yield_per=10)


@pytest.mark.postgresql
async def test_connection_that_is_lost_after_a_stream_is_named_as_the_reason(
    databases: None,
) -> None:
    with pytest.raises(OperationalError, match="closed"):
        async with session_scope() as session:
            async for _ in await session.stream(MANY):
                pass
            await lose_connection(session)
            await session.execute(text("SELECT 1"))


@pytest.mark.postgresql
async def test_lost_connection_is_released_while_one_of_its_streams_is_open(
    databases: None,
) -> None:
    with suppress(DBAPIError, InvalidRequestError):
        async with session_scope() as session:
            outer = await session.stream(MANY)
            await anext(outer)
            async for _ in await session.stream(MANY):
                pass
            await lose_connection(session)

            assert not checked_out()


async def lose_connection(session: AsyncSession) -> None:
    connection = await driver(session)
    await kill(connection.get_server_pid())
    await until(connection.is_closed)
