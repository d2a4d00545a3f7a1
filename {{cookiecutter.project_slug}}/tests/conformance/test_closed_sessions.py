"""A closed session raises when it is used; its objects stay readable."""

from collections.abc import AsyncGenerator

import pytest
from fastapi import FastAPI
from fastapi.responses import StreamingResponse
from httpx2 import AsyncClient
from sqlalchemy import text
from sqlalchemy.exc import InvalidRequestError
from sqlalchemy.ext.asyncio import AsyncSession

from app.core.db import session_scope
from app.dependencies import SessionDep
from tests.support import new_user


async def test_attributes_are_readable_after_commit(databases: None) -> None:
    async with session_scope() as session:
        ada = new_user()
        session.add(ada)

    assert (ada.name, ada.version) == ("Ada", 1)


async def test_closed_session_raises_when_used(databases: None) -> None:
    async with session_scope() as session:
        await session.execute(text("SELECT 1"))

    with pytest.raises(InvalidRequestError, match="permanently closed"):
        await session.execute(text("SELECT 1"))


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
