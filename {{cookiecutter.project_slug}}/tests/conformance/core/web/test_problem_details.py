"""Error responses: the problem document and the log record of each error."""

import asyncio
from collections.abc import AsyncGenerator
from uuid import uuid4

import pytest
from fastapi import FastAPI, HTTPException
from httpx2 import AsyncClient
from sqlalchemy import exc, text

from app.core.config import get_settings
from app.core.db import session_scope
from app.dependencies import ReadSessionDep, SessionDep
from app.errors import ConflictError, NotFoundError
from app.models import User
from tests.support import USERS, disconnecting, new_user, problem


@pytest.mark.sqlite  # it uses no database
async def test_unknown_route_is_404(client: AsyncClient) -> None:
    response = await client.get("/nowhere")

    assert problem(response) == {"type": "about:blank", "title": "Not Found", "status": 404}


@pytest.mark.sqlite  # it uses no database
async def test_wrong_method_is_405_and_lists_the_allowed_ones(client: AsyncClient) -> None:
    response = await client.put(USERS)

    assert problem(response)["title"] == "Method Not Allowed"
    assert "POST" in response.headers["allow"]


@pytest.mark.sqlite  # it uses no database
async def test_http_exception_keeps_its_status_detail_and_headers(
    app: FastAPI, client: AsyncClient
) -> None:
    @app.get("/error/{status}")
    async def error(status: int) -> None:
        raise HTTPException(status, "reason", {"x-header": "yes"})

    for status, title in ((418, "I'm a Teapot"), (499, "Error"), (599, "Error")):
        response = await client.get(f"/error/{status}")

        assert response.status_code == status
        assert (title, "reason") == (problem(response)["title"], problem(response)["detail"])
        assert response.headers["x-header"] == "yes"


@pytest.mark.sqlite  # it uses no database
async def test_response_has_no_body_if_its_status_forbids_one(
    app: FastAPI, server: AsyncClient
) -> None:
    @app.get("/error")
    async def error() -> None:
        raise HTTPException(304)

    response = await server.get("/error")

    assert (response.status_code, response.content) == (304, b"")


@pytest.mark.sqlite  # no such request reaches the database
async def test_too_large_body_is_413_if_it_is_chunked_and_before_it_is_sent_otherwise(
    server: AsyncClient,
) -> None:
    async def chunks() -> AsyncGenerator[bytes, None]:
        for _ in range(11):
            yield b" " * 2**20

    response = await server.post(USERS, content=chunks())
    assert problem(response)["status"] == 413

    length = f"Content-Length: {11 * 2**20}"
    async with disconnecting(server, "POST", USERS, length) as reader:
        assert b" 413 " in await reader.readline()


async def test_write_in_a_read_only_session_is_logged_with_a_fix(
    app: FastAPI, client: AsyncClient, caplog: pytest.LogCaptureFixture
) -> None:
    @app.get("/write")
    async def write(session: ReadSessionDep) -> None:
        session.add(new_user())
        await session.flush()

    response = await client.get("/write")

    assert problem(response)["status"] == 500
    assert "A write reached a read-only session or a standby server" in caplog.text


ERRORS: dict[int, Exception] = {
    404: NotFoundError("There is no such thing."),
    503: exc.TimeoutError(),
    409: ExceptionGroup("", [ConflictError("It has changed.")]),
    500: LookupError(),
}


@pytest.mark.sqlite  # it uses no database
async def test_error_in_a_task_group_is_handled_like_one_of_the_route(
    app: FastAPI, client: AsyncClient
) -> None:
    async def fail(status: int) -> None:
        raise ERRORS[status]

    @app.get("/tasks/{status}")
    async def tasks(status: int) -> None:
        async with asyncio.TaskGroup() as group:
            group.create_task(asyncio.sleep(60))
            group.create_task(fail(status))

    for status in ERRORS:
        assert problem(await client.get(f"/tasks/{status}"))["status"] == status


async def test_database_error_is_logged_with_its_cause_and_without_parameters(
    app: FastAPI, client: AsyncClient, caplog: pytest.LogCaptureFixture
) -> None:
    secret = str(uuid4())  # not a literal: a traceback shows the source line

    @app.get("/error")
    async def error(session: SessionDep) -> None:
        await session.execute(text("SELECT * FROM nowhere WHERE 'x' = :x"), {"x": secret})

    await client.get("/error")

    [record] = [record for record in caplog.records if record.name == "app.core.web.error_handlers"]
    assert record.exc_info
    assert '"nowhere" does not exist' in caplog.text or "no such table: nowhere" in caplog.text
    assert secret not in caplog.text


@pytest.mark.sqlite  # it uses no database
def test_openapi_schema_describes_the_error_responses(app: FastAPI) -> None:
    responses = app.openapi()["paths"][USERS]["post"]["responses"]

    assert {"201", "4XX", "5XX"} == set(responses)
    assert list(responses["4XX"]["content"]) == ["application/problem+json"]


VIOLATIONS = {
    "INSERT INTO things (id, n) VALUES (1, 7), (2, 7)": 409,  # unique
    "INSERT INTO things (id, n) VALUES (1, 1), (1, 2)": 409,  # primary key
    "INSERT INTO things (id, n, parent) VALUES (1, 1, 9)": 409,  # foreign key
    "INSERT INTO things (id) VALUES (1)": 422,  # not null
    "INSERT INTO things (id, n) VALUES (1, -1)": 422,  # check
    "INSERT INTO nowhere VALUES (1)": 500,
}


async def test_database_error_has_its_status_and_shows_no_sql(
    app: FastAPI, client: AsyncClient
) -> None:
    @app.get("/violate")
    async def violate(session: SessionDep, statement: str) -> None:
        columns = (
            "id INTEGER PRIMARY KEY, n INTEGER NOT NULL UNIQUE CHECK (n > 0), "
            "parent INTEGER REFERENCES things (id)"
        )
        await session.execute(text(f"CREATE TABLE things ({columns})"))
        await session.execute(text(statement))

    for statement, status in VIOLATIONS.items():
        response = await client.get("/violate", params={"statement": statement})

        assert problem(response)["status"] == status, statement
        assert "things" not in response.text
        assert "INSERT" not in response.text


async def test_update_of_a_stale_entity_is_409(app: FastAPI, client: AsyncClient) -> None:
    @app.post("/stale")
    async def write(session: SessionDep) -> None:
        user = new_user()
        session.add(user)
        await session.commit()
        async with session_scope() as other:
            (await other.get_one(User, user.id)).name = "Grace"
        user.name = "Alan"

    response = await client.post("/stale")

    assert problem(response)["status"] == 409


async def test_lock_timeout_is_503_with_retry_after(
    app: FastAPI, client: AsyncClient, environment: pytest.MonkeyPatch
) -> None:
    environment.setattr("app.core.database.sqlite.BUSY_TIMEOUT", 0.1)
    environment.setenv("DATABASES__PRIMARY__LOCK_TIMEOUT", "0.1")
    get_settings.cache_clear()
    async with session_scope() as session:
        session.add(new_user())

    @app.get("/write")
    async def write(session: SessionDep) -> None:
        await session.execute(text("UPDATE users SET version = 2"))

    async with session_scope() as holder:
        await holder.execute(text("UPDATE users SET version = 2"))
        response = await client.get("/write")

    assert problem(response)["status"] == 503
    assert response.headers["retry-after"] == "1"


@pytest.mark.sqlite
async def test_write_on_an_outdated_snapshot_is_503_with_retry_after(
    app: FastAPI, client: AsyncClient
) -> None:
    @app.get("/write")
    async def write(session: SessionDep) -> None:
        await session.execute(text("SELECT * FROM users"))
        async with session_scope() as other:
            await other.execute(text("CREATE TABLE newer (id INTEGER)"))
        await session.execute(text("UPDATE users SET version = 2"))

    response = await client.get("/write")

    assert problem(response)["status"] == 503
    assert response.headers["retry-after"] == "1"
