"""An answer of any length, of which no more than a piece is in memory."""

import zlib
from collections.abc import AsyncGenerator
from contextlib import aclosing

from fastapi.responses import StreamingResponse
from starlette.types import Send

GZIP = 16 + zlib.MAX_WBITS  # https://docs.python.org/3/library/zlib.html#zlib.compressobj
LEVEL = 1  # of 9: twice as fast as zlib's default, for a tenth more bytes of events


class Stream(StreamingResponse):
    """A stream that ends what it reads from as soon as its client has gone."""

    async def stream_response(self, send: Send) -> None:
        async with aclosing(self.body_iterator):  # type: ignore[type-var]
            await super().stream_response(send)


async def stream(
    pieces: AsyncGenerator[bytes, None], media_type: str, accept_encoding: str = ""
) -> Stream:
    """Return an answer of these pieces, compressed if the client's Accept-Encoding asks for gzip.

    The first piece is read here: an error up to it is answered as any other error is. One that comes
    later can only break off the answer.
    """
    headers = {"Vary": "Accept-Encoding"}
    if _asks_for_gzip(accept_encoding):
        headers["Content-Encoding"] = "gzip"
        pieces = _compress(pieces)
    first = await anext(pieces, b"")
    return Stream(_chain(first, pieces), headers=headers, media_type=media_type)


def _asks_for_gzip(accept_encoding: str) -> bool:
    """Say whether gzip is listed, and not with a quality of 0. RFC 9110, 12.5.3"""
    for coding in accept_encoding.lower().split(","):
        name, *parameters = (part.strip() for part in coding.split(";"))
        if name == "gzip":
            return not any(p.startswith("q=") and not p[2:].strip("0.") for p in parameters)
    return False


async def _compress(pieces: AsyncGenerator[bytes, None]) -> AsyncGenerator[bytes, None]:
    compressor = zlib.compressobj(LEVEL, wbits=GZIP)
    async with aclosing(pieces):
        async for piece in pieces:
            if compressed := compressor.compress(piece):
                yield compressed
    yield compressor.flush()


async def _chain(first: bytes, others: AsyncGenerator[bytes, None]) -> AsyncGenerator[bytes, None]:
    async with aclosing(others):
        yield first
        async for piece in others:
            yield piece
