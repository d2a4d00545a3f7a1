"""Streaming responses: compression, early errors, and closing the source."""

import asyncio
import gzip
from collections.abc import AsyncGenerator

import pytest
from fastapi import FastAPI
from httpx2 import AsyncClient

from app.core.web.streaming import Stream, _accepts_gzip, stream
from tests.support import disconnecting, problem, until

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
