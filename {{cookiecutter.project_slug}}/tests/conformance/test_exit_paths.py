"""Every way to leave a route gives the expected response and rows, and no connection is checked out."""

import asyncio
from collections.abc import AsyncGenerator, Awaitable, Callable
from typing import Any, NamedTuple

import pytest
from fastapi import BackgroundTasks, FastAPI, HTTPException
from fastapi.responses import StreamingResponse
from httpx2 import AsyncClient, RemoteProtocolError
from sqlalchemy import text
from sqlalchemy.exc import IntegrityError
from sqlalchemy.ext.asyncio import AsyncSession

from app.core.db import session_scope
from app.dependencies import SessionDep
from tests.inspection import checked_out, fetch, stored_users
from tests.support import abort_transaction, new_user, serves, until, violate_at_commit


async def return_a_number(session: AsyncSession) -> int:
    return 1


async def return_an_invalid_response(session: AsyncSession) -> str:
    return "not a number"


async def raise_http_exception(session: AsyncSession) -> None:
    raise HTTPException(418)


async def raise_error(session: AsyncSession) -> None:
    raise ValueError("hidden")


async def raise_database_error(session: AsyncSession) -> None:
    await session.execute(text("INSERT INTO users SELECT * FROM users"))


async def raise_cancellation(session: AsyncSession) -> None:
    raise asyncio.CancelledError


async def time_out(session: AsyncSession) -> None:
    async with asyncio.timeout(0.01):
        await asyncio.Event().wait()


async def time_out_during_statements(session: AsyncSession) -> None:
    async with asyncio.timeout(0.01):
        while True:
            await session.execute(text("SELECT 1"))


async def commit_and_return(session: AsyncSession) -> int:
    await session.commit()
    return 1


async def commit_and_raise(session: AsyncSession) -> None:
    await session.commit()
    session.add(new_user())
    await session.flush()
    raise ValueError("hidden")


async def roll_back_and_return(session: AsyncSession) -> int:
    await session.rollback()
    return 1


async def roll_back_and_write(session: AsyncSession) -> int:
    await session.rollback()
    session.add_all([new_user(), new_user()])
    return 1


async def fail_in_a_savepoint(session: AsyncSession) -> int:
    [email] = await session.scalars(text("SELECT email FROM users"))
    with pytest.raises(IntegrityError):
        async with session.begin_nested():
            session.add(new_user(email=email))
    return 1


async def raise_in_a_savepoint(session: AsyncSession) -> None:
    async with session.begin_nested():
        session.add(new_user())
        await session.flush()
        raise ValueError("hidden")


class ExitPath(NamedTuple):
    leave: Callable[[AsyncSession], Awaitable[Any]]
    status: int
    rows: int


PATHS = [
    ExitPath(return_a_number, 200, 1),
    ExitPath(return_an_invalid_response, 500, 0),
    ExitPath(raise_http_exception, 418, 0),
    ExitPath(raise_error, 500, 0),
    ExitPath(raise_database_error, 409, 0),
    ExitPath(raise_cancellation, 500, 0),
    ExitPath(time_out, 500, 0),
    ExitPath(time_out_during_statements, 500, 0),
    ExitPath(violate_at_commit, 409, 0),
    ExitPath(abort_transaction, 500, 0),
    ExitPath(commit_and_return, 200, 1),
    ExitPath(commit_and_raise, 500, 1),
    ExitPath(roll_back_and_return, 200, 0),
    ExitPath(roll_back_and_write, 200, 2),
    ExitPath(fail_in_a_savepoint, 200, 1),
    ExitPath(raise_in_a_savepoint, 500, 0),
]


async def test_exit_path_gives_the_expected_response_and_rows(
    app: FastAPI, server: AsyncClient
) -> None:
    by_name = {path.leave.__name__: path for path in PATHS}

    @app.post("/write/{name}", response_model=int | None)
    async def write(session: SessionDep, name: str) -> Any:
        session.add(new_user())
        await session.flush()
        return await by_name[name].leave(session)

    found = {}
    for name in by_name:
        response = await server.post(f"/write/{name}")
        found[name] = response.status_code, await stored_users(), checked_out()
        assert "hidden" not in response.text, name
        assert await serves(server), name
        await fetch("DELETE FROM users")

    assert found == {name: (path.status, path.rows, []) for name, path in by_name.items()}


async def test_background_task_runs_after_the_commit_with_its_own_session(
    app: FastAPI, server: AsyncClient
) -> None:
    counts: list[int] = []

    async def two_are_stored() -> bool:
        return await stored_users() == 2

    async def write() -> None:
        counts.append(await stored_users())
        async with session_scope() as session:
            session.add(new_user())

    @app.post("/later")
    async def later(tasks: BackgroundTasks, session: SessionDep) -> None:
        session.add(new_user())
        tasks.add_task(write)

    await server.post("/later")
    await until(two_are_stored)

    assert counts == [1]


async def test_failed_background_task_rolls_back_only_its_own_writes(
    app: FastAPI, server: AsyncClient
) -> None:
    async def fail() -> None:
        async with session_scope() as session:
            session.add(new_user())
            await session.flush()
            raise ValueError

    @app.post("/later")
    async def later(tasks: BackgroundTasks, session: SessionDep) -> None:
        session.add(new_user())
        tasks.add_task(fail)

    assert (await server.post("/later")).status_code == 200
    await until(lambda: not checked_out())
    assert await stored_users() == 1


async def test_stream_sees_the_commit_of_its_request(app: FastAPI, server: AsyncClient) -> None:
    async def lines() -> AsyncGenerator[str, None]:
        async with session_scope() as session:
            async for name in await session.stream_scalars(text("SELECT name FROM users")):
                yield f"{name}\n"

    @app.get("/names")
    async def names(session: SessionDep) -> StreamingResponse:
        session.add(new_user())
        return StreamingResponse(lines())

    assert (await server.get("/names")).text == "Ada\n"
    await until(lambda: not checked_out())


async def test_stream_that_fails_rolls_back_and_aborts_the_response(
    app: FastAPI, server: AsyncClient
) -> None:
    async def lines() -> AsyncGenerator[str, None]:
        async with session_scope() as session:
            session.add(new_user())
            await session.flush()
            yield "first\n"
            raise ValueError

    @app.get("/names")
    async def names() -> StreamingResponse:
        return StreamingResponse(lines())

    with pytest.raises(RemoteProtocolError):
        await server.get("/names")
    await until(lambda: not checked_out())
    assert await stored_users() == 0
