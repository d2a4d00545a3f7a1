"""Which Accept-Encoding headers ask for gzip, and the bytes of a compressed stream."""

import gzip
from collections.abc import AsyncGenerator

import pytest

from app.core.web.streaming import _asks_for_gzip, stream

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


async def test_bytes_of_a_compressed_stream_are_a_file_of_gzip() -> None:
    answer = await stream(numbers(5_000), "text/plain", "gzip")

    pieces = [bytes(piece) async for piece in answer.body_iterator if not isinstance(piece, str)]

    assert b"4999" in gzip.decompress(b"".join(pieces))
    assert len(b"".join(pieces)) < 15_000
