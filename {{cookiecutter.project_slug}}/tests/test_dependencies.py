"""What the aliases promise to a request, through a real uvicorn where commit and answer have an order."""

import asyncio
from collections.abc import AsyncGenerator
from typing import Any

import pytest
from fastapi import BackgroundTasks, FastAPI, HTTPException, WebSocket
from fastapi.responses import StreamingResponse
from fastapi.testclient import TestClient
from httpx2 import AsyncClient
from pydantic import BaseModel
from sqlalchemy import inspect, text
from sqlalchemy.exc import InvalidRequestError
from sqlalchemy.ext.asyncio import AsyncSession

from app.core.config import get_settings
from app.core.db import get_session, session_scope
from app.dependencies import DevSessionDep, PrimarySessionDep, SessionDep
from tests.support import lose_transaction, new_user, stored_users, violate_at_commit

PROBLEM = "application/problem+json"


def test_primary_alias_is_the_default_one() -> None:
    assert PrimarySessionDep is SessionDep


async def test_every_answered_write_is_stored_when_its_answer_arrives(
    app: FastAPI, server: AsyncClient
) -> None:
    @app.post("/write")
    async def write(session: SessionDep) -> None:
        session.add(new_user())

    for written in range(1, 51):
        await server.post("/write")

        assert written == await stored_users()


async def test_commit_that_fails_is_an_error_answer_and_no_row(
    app: FastAPI, server: AsyncClient
) -> None:
    @app.post("/write", status_code=201)
    async def write(session: SessionDep) -> None:
        session.add(new_user())
        await violate_at_commit(session)

    answer = await server.post("/write")

    assert (409, PROBLEM) == (answer.status_code, answer.headers["content-type"])
    assert await stored_users() == 0


async def test_commit_that_would_store_nothing_is_an_error_answer(
    app: FastAPI, server: AsyncClient
) -> None:
    @app.post("/write", status_code=201)
    async def write(session: SessionDep) -> None:
        await lose_transaction(session)

    answer = await server.post("/write")

    assert (500, PROBLEM) == (answer.status_code, answer.headers["content-type"])
    assert await stored_users() == 0


@pytest.mark.parametrize(
    ("error", "status"), [(HTTPException(418), 418), (ValueError("secret"), 500)]
)
async def test_route_that_raises_leaves_no_row(
    app: FastAPI, server: AsyncClient, error: Exception, status: int
) -> None:
    @app.post("/write")
    async def write(session: SessionDep) -> None:
        session.add(new_user())
        await session.flush()
        raise error

    answer = await server.post("/write")

    assert (status, PROBLEM) == (answer.status_code, answer.headers["content-type"])
    assert "secret" not in answer.text
    assert await stored_users() == 0


async def test_answer_that_cannot_be_serialized_leaves_no_row(
    app: FastAPI, server: AsyncClient
) -> None:
    class Answer(BaseModel):
        number: int

    @app.post("/write", response_model=Answer)
    async def write(session: SessionDep) -> Any:
        session.add(new_user())
        return {"number": "none"}

    answer = await server.post("/write")

    assert answer.status_code == 500
    assert await stored_users() == 0


async def test_aliases_of_a_database_share_a_session(app: FastAPI, client: AsyncClient) -> None:
    @app.get("/same")
    async def same(one: SessionDep, other: PrimarySessionDep) -> bool:
        return one is other

    assert (await client.get("/same")).json() is True


async def test_dependency_can_be_overridden(app: FastAPI, client: AsyncClient) -> None:
    async def other() -> AsyncGenerator[AsyncSession, None]:
        async with session_scope() as session:
            session.info["other"] = True
            yield session

    @app.get("/session")
    async def which(session: SessionDep) -> bool:
        return "other" in session.info

    app.dependency_overrides[get_session()] = other

    assert (await client.get("/session")).json() is True


async def test_dev_alias_uses_the_dev_database(
    app: FastAPI, client: AsyncClient, new_database: str, environment: pytest.MonkeyPatch
) -> None:
    environment.setenv("DEV_DATABASE_URL", new_database)
    get_settings.cache_clear()

    @app.get("/tables")
    async def tables(session: DevSessionDep) -> list[str]:
        connection = await session.connection()
        return await connection.run_sync(lambda sync: inspect(sync).get_table_names())

    assert (await client.get("/tables")).json() == []


async def test_stream_opens_a_session_of_its_own(app: FastAPI, server: AsyncClient) -> None:
    async def lines() -> AsyncGenerator[str, None]:
        async with session_scope() as session:
            async for name in await session.stream_scalars(text("SELECT name FROM users")):
                yield f"{name}\n"

    @app.get("/names")
    async def names(session: SessionDep) -> StreamingResponse:
        session.add(new_user())
        return StreamingResponse(lines())

    assert (await server.get("/names")).text == "Ada\n"


async def test_session_of_the_request_is_refused_to_a_stream(
    app: FastAPI, server: AsyncClient
) -> None:
    refused: list[InvalidRequestError] = []

    async def lines(session: AsyncSession) -> AsyncGenerator[str, None]:
        try:
            yield str(await session.scalar(text("SELECT 1")))
        except InvalidRequestError as error:
            refused.append(error)

    @app.get("/names")
    async def names(session: SessionDep) -> StreamingResponse:
        await session.execute(text("SELECT 1"))
        return StreamingResponse(lines(session))

    assert (await server.get("/names")).text == ""
    assert len(refused) == 1


async def test_background_task_opens_a_session_of_its_own(
    app: FastAPI, server: AsyncClient
) -> None:
    async def write() -> None:
        async with session_scope() as session:
            session.add(new_user())

    @app.post("/later")
    async def later(tasks: BackgroundTasks) -> None:
        tasks.add_task(write)

    await server.post("/later")
    await server.get("/users")  # on the same connection: it is answered after the task

    assert await stored_users() == 1


def test_websocket_commits_when_it_ends(app: FastAPI) -> None:
    @app.websocket("/ws")
    async def socket(websocket: WebSocket, session: SessionDep) -> None:
        await websocket.accept()
        session.add(new_user())
        await websocket.close()

    with TestClient(app) as client, client.websocket_connect("/ws") as websocket:
        websocket.receive()

    assert asyncio.run(stored_users()) == 1
