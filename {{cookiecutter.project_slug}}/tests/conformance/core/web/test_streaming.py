"""A stream is compressed if that is asked for, holds little, and ends what it reads from."""

import asyncio
import gzip
from collections.abc import AsyncGenerator

import pytest
from fastapi import FastAPI
from httpx2 import AsyncClient

from app.core.web.streaming import Stream, _asks_for_gzip, stream
from tests.support import leaving, problem, until

ASKING = ["gzip", "GZIP", "br, gzip", "gzip;q=0.5", "deflate,gzip ; q=1", "gzip;q=0.001"]
NOT_ASKING = [
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


@pytest.mark.parametrize("accept", ASKING)
def test_gzip_is_asked_for(accept: str) -> None:
    assert _asks_for_gzip(accept)


@pytest.mark.parametrize("accept", NOT_ASKING)
def test_gzip_is_not_asked_for(accept: str) -> None:
    assert not _asks_for_gzip(accept)


async def numbers(count: int) -> AsyncGenerator[bytes, None]:
    for number in range(count):
        yield b"%d\n" % number


@pytest.mark.parametrize("count", [0, 1, 5_000])
async def test_stream_is_the_same_compressed_or_not(
    app: FastAPI, client: AsyncClient, count: int
) -> None:
    @app.get("/plain")
    async def plain() -> Stream:
        return await stream(numbers(count), "text/plain")

    @app.get("/compressed")
    async def compressed() -> Stream:
        return await stream(numbers(count), "text/plain", "gzip")

    one, other = await client.get("/plain"), await client.get("/compressed")

    assert b"".join([b"%d\n" % number for number in range(count)]) == one.content == other.content
    assert "gzip" == other.headers["content-encoding"]
    assert "content-encoding" not in one.headers
    assert "Accept-Encoding" == one.headers["vary"] == other.headers["vary"]


async def test_bytes_of_a_compressed_stream_are_a_file_of_gzip() -> None:
    answer = await stream(numbers(5_000), "text/plain", "gzip")

    pieces = [bytes(piece) async for piece in answer.body_iterator if not isinstance(piece, str)]

    assert b"4999" in gzip.decompress(b"".join(pieces))
    assert len(b"".join(pieces)) < 15_000


async def test_error_before_the_first_piece_is_answered(app: FastAPI, client: AsyncClient) -> None:
    async def broken() -> AsyncGenerator[bytes, None]:
        raise ZeroDivisionError
        yield b""

    @app.get("/broken")
    async def answer() -> Stream:
        return await stream(broken(), "text/plain", "gzip")

    assert problem(await client.get("/broken"))["status"] == 500


@pytest.mark.parametrize("accept", ["", "gzip"])
async def test_client_that_leaves_ends_what_is_read_from(
    app: FastAPI, server: AsyncClient, accept: str
) -> None:
    ended = asyncio.Event()

    async def endless() -> AsyncGenerator[bytes, None]:
        try:
            while True:
                yield bytes(range(256)) * 100
                await asyncio.sleep(0)
        finally:
            ended.set()

    @app.get("/endless")
    async def answer() -> Stream:
        return await stream(endless(), "text/plain", accept)

    async with leaving(server, "GET", "/endless") as reader:
        await reader.read(1000)
    await until(ended.is_set)
