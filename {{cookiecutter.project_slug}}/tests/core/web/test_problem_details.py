"""The document that answers each error."""

import pytest
from fastapi import FastAPI, HTTPException
from httpx2 import AsyncClient
from sqlalchemy import text

from app.core.db import session_scope
from app.dependencies import SessionDep
from app.models import User
from tests.support import new_user, problem


async def test_unknown_route(client: AsyncClient) -> None:
    answer = await client.get("/nowhere")

    assert problem(answer) == {"type": "about:blank", "title": "Not Found", "status": 404}


async def test_wrong_method(client: AsyncClient) -> None:
    answer = await client.put("/users")

    assert problem(answer)["title"] == "Method Not Allowed"
    assert "POST" in answer.headers["allow"]


@pytest.mark.parametrize(
    ("status", "title"), [(418, "I'm a Teapot"), (499, "Error"), (599, "Error")]
)
async def test_http_exception_keeps_its_status_its_detail_and_its_headers(
    app: FastAPI, client: AsyncClient, status: int, title: str
) -> None:
    @app.get("/error")
    async def error() -> None:
        raise HTTPException(status, "why", {"x-header": "yes"})

    answer = await client.get("/error")

    assert answer.status_code == status
    assert (title, "why") == (problem(answer)["title"], problem(answer)["detail"])
    assert answer.headers["x-header"] == "yes"


async def test_wrong_form_names_the_fields_and_not_their_values(client: AsyncClient) -> None:
    answer = await client.post("/users", json={"name": "", "email": "hidden"})

    document = problem(answer)
    assert document["status"] == 422
    assert [["body", "name"], ["body", "email"]] == [e["loc"] for e in document["errors"]]
    assert "hidden" not in answer.text


async def test_unforeseen_error_tells_nothing(app: FastAPI, client: AsyncClient) -> None:
    @app.get("/error")
    async def error() -> None:
        raise RuntimeError("hidden")

    assert problem(await client.get("/error")) == {
        "type": "about:blank",
        "title": "Internal server error",
        "status": 500,
    }


VIOLATIONS = {
    "INSERT INTO things (id, n) VALUES (1, 1), (1, 1)": 409,  # primary key
    "INSERT INTO things (id, n) VALUES (1, 7), (2, 7)": 409,  # unique
    "INSERT INTO things (id, n, parent) VALUES (1, 1, 9)": 409,  # foreign key
    "INSERT INTO things (id) VALUES (1)": 422,  # not null
    "INSERT INTO things (id, n) VALUES (1, -1)": 422,  # check
    "INSERT INTO nowhere VALUES (1)": 500,
}


@pytest.mark.parametrize(("statement", "status"), VIOLATIONS.items())
async def test_error_of_the_database_has_its_status_and_shows_no_sql(
    app: FastAPI, client: AsyncClient, statement: str, status: int
) -> None:
    @app.get("/violate")
    async def violate(session: SessionDep) -> None:
        await session.execute(
            text(
                "CREATE TABLE things (id INTEGER PRIMARY KEY, n INTEGER NOT NULL UNIQUE "
                "CHECK (n > 0), parent INTEGER REFERENCES things (id))"
            )
        )
        await session.execute(text(statement))

    answer = await client.get("/violate")

    assert problem(answer)["status"] == status
    assert "things" not in answer.text
    assert "INSERT" not in answer.text


async def test_entity_of_an_older_version_is_a_conflict(app: FastAPI, client: AsyncClient) -> None:
    @app.post("/stale")
    async def write(session: SessionDep) -> None:
        user = new_user()
        session.add(user)
        await session.commit()
        async with session_scope() as other:
            (await other.get_one(User, user.id)).name = "Grace"
        user.name = "Alan"

    answer = await client.post("/stale")

    assert problem(answer)["status"] == 409
