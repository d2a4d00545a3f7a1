"""A closed session raises when it is used; its objects stay readable."""

from collections.abc import AsyncGenerator

from fastapi import FastAPI
from fastapi.responses import StreamingResponse
from httpx2 import AsyncClient
from sqlalchemy import text
from sqlalchemy.exc import InvalidRequestError
from sqlalchemy.ext.asyncio import AsyncSession

from app.dependencies import SessionDep


async def test_stream_cannot_use_the_session_of_its_request(
    app: FastAPI, server: AsyncClient
) -> None:
    errors: list[InvalidRequestError] = []

    async def lines(session: AsyncSession) -> AsyncGenerator[str, None]:
        try:
            yield str(await session.scalar(text("SELECT 1")))
        except InvalidRequestError as error:
            errors.append(error)

    @app.get("/names")
    async def names(session: SessionDep) -> StreamingResponse:
        await session.execute(text("SELECT 1"))
        return StreamingResponse(lines(session))

    assert (await server.get("/names")).text == ""
    assert len(errors) == 1
