"""The routes that test the behaviours: the same for all projects, with the session of each project.

If the project's documentation commits in the route, `commit` does too. Otherwise it does nothing.
"""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import suppress
from typing import Any

from fastapi import FastAPI, HTTPException
from fastapi.responses import JSONResponse, StreamingResponse
from sqlalchemy import text
from sqlalchemy.exc import DBAPIError
from sqlalchemy.ext.asyncio import AsyncSession
from sqlalchemy.orm import Session as SyncSession

WRITE = text("INSERT INTO behaviours (token) VALUES (:token)")
WRITE_SLOWLY = text("INSERT INTO commits_slowly (token) VALUES (:token)")
WRITE_IN_VAIN = text("INSERT INTO refuses_to_commit (token) VALUES (:token)")
FAIL = text("SELECT 1 / 0")
WAIT = text("SELECT pg_sleep(:seconds)")
READ = text("SELECT 1")


async def commit_in_route(session: AsyncSession) -> None:
    await session.commit()


async def do_nothing(_: AsyncSession) -> None:
    pass


def add_routes(
    app: FastAPI,
    Session: Any,
    commit: Callable[[AsyncSession], Awaitable[None]] = do_nothing,
    in_stream: Callable[[AsyncSession], AsyncSession] = lambda session: session,
) -> None:
    """Add the routes to the app of a project with asynchronous sessions.

    `in_stream` returns the session in a stream, if the project has its own way to get it.
    """

    @app.post("/behaviours/write/{token}", status_code=201)
    async def write(token: str, session: Session) -> None:
        await session.execute(WRITE, {"token": token})

    @app.post("/behaviours/slow-commit/{token}", status_code=201)
    async def slow_commit(token: str, session: Session) -> None:
        await session.execute(WRITE_SLOWLY, {"token": token})
        await commit(session)

    @app.post("/behaviours/failing-commit/{token}", status_code=201)
    async def failing_commit(token: str, session: Session) -> None:
        await session.execute(WRITE_IN_VAIN, {"token": token})
        await commit(session)

    @app.post("/behaviours/swallow/{token}", status_code=201)
    async def swallow(token: str, session: Session) -> None:
        await session.execute(WRITE, {"token": token})
        with suppress(DBAPIError):
            await session.execute(FAIL)
        await commit(session)

    @app.post("/behaviours/raise/{token}", status_code=201)
    async def raise_(token: str, session: Session) -> None:
        await session.execute(WRITE, {"token": token})
        raise HTTPException(409)

    @app.post("/behaviours/return/{token}", status_code=201)
    async def return_(token: str, session: Session) -> JSONResponse:
        await session.execute(WRITE, {"token": token})
        return JSONResponse({}, 409)

    @app.post("/behaviours/cancel/{token}", status_code=201)
    async def cancel(token: str, session: Session) -> None:
        await session.execute(WRITE, {"token": token})
        raise asyncio.CancelledError

    @app.post("/behaviours/wait/{token}", status_code=201)
    async def wait(token: str, session: Session, seconds: float) -> None:
        await session.execute(WRITE, {"token": token})
        await session.execute(WAIT, {"seconds": seconds})
        await commit(session)

    @app.get("/behaviours/read")
    async def read(session: Session, seconds: float = 0) -> int:
        await session.execute(WAIT, {"seconds": seconds})
        return await session.scalar(READ)

    @app.get("/behaviours/stream")
    async def stream(session: Session) -> StreamingResponse:
        async def lines() -> AsyncIterator[str]:
            for _ in range(3):
                yield f"{await in_stream(session).scalar(READ)}\n"

        return StreamingResponse(lines())


def add_sync_routes(
    app: FastAPI,
    Session: Any,
    commit: Callable[[SyncSession], None] = lambda _: None,
    in_stream: Callable[[SyncSession], SyncSession] = lambda session: session,
) -> None:
    """Add the same routes to the app of a project with synchronous sessions, except `cancel`."""

    @app.post("/behaviours/write/{token}", status_code=201)
    def write(token: str, session: Session) -> None:
        session.execute(WRITE, {"token": token})

    @app.post("/behaviours/slow-commit/{token}", status_code=201)
    def slow_commit(token: str, session: Session) -> None:
        session.execute(WRITE_SLOWLY, {"token": token})
        commit(session)

    @app.post("/behaviours/failing-commit/{token}", status_code=201)
    def failing_commit(token: str, session: Session) -> None:
        session.execute(WRITE_IN_VAIN, {"token": token})
        commit(session)

    @app.post("/behaviours/swallow/{token}", status_code=201)
    def swallow(token: str, session: Session) -> None:
        session.execute(WRITE, {"token": token})
        with suppress(DBAPIError):
            session.execute(FAIL)
        commit(session)

    @app.post("/behaviours/raise/{token}", status_code=201)
    def raise_(token: str, session: Session) -> None:
        session.execute(WRITE, {"token": token})
        raise HTTPException(409)

    @app.post("/behaviours/return/{token}", status_code=201)
    def return_(token: str, session: Session) -> JSONResponse:
        session.execute(WRITE, {"token": token})
        return JSONResponse({}, 409)

    @app.post("/behaviours/wait/{token}", status_code=201)
    def wait(token: str, session: Session, seconds: float) -> None:
        session.execute(WRITE, {"token": token})
        session.execute(WAIT, {"seconds": seconds})
        commit(session)

    @app.get("/behaviours/read")
    def read(session: Session, seconds: float = 0) -> int:
        session.execute(WAIT, {"seconds": seconds})
        return session.execute(READ).scalar()

    @app.get("/behaviours/stream")
    def stream(session: Session) -> StreamingResponse:
        def lines() -> Iterator[str]:
            for _ in range(3):
                yield f"{in_stream(session).execute(READ).scalar()}\n"

        return StreamingResponse(lines())
