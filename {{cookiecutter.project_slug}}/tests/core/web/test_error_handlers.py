"""Errors as application/problem+json, with a status and without SQL."""

import pytest
from fastapi import FastAPI
from httpx2 import AsyncClient
from sqlalchemy import text

from app.dependencies import SessionDep
from tests.support import USERS, problem, user_values


async def test_invalid_body_is_422_and_names_the_fields_without_their_values(
    client: AsyncClient,
) -> None:
    response = await client.post(USERS, json=user_values("", email="hidden"))

    document = problem(response)
    assert document["status"] == 422
    assert [e["loc"] for e in document["errors"]] == [["body", "name"], ["body", "email"]]
    assert "hidden" not in response.text


async def test_body_over_the_limit_is_413(server: AsyncClient) -> None:
    response = await server.post(USERS, content=b" " * 11 * 2**20)

    assert problem(response)["status"] == 413


async def test_unexpected_error_is_500_without_details(app: FastAPI, client: AsyncClient) -> None:
    @app.get("/error")
    async def error() -> None:
        raise RuntimeError("hidden")

    response = await client.get("/error")

    assert problem(response)["status"] == 500
    assert "hidden" not in response.text


VIOLATIONS = {
    "INSERT INTO things (id, n) VALUES (1, 7), (2, 7)": 409,  # unique
    "INSERT INTO things (id) VALUES (1)": 422,  # not null
    "INSERT INTO things (id, n) VALUES (1, -1)": 422,  # check
    "INSERT INTO nowhere VALUES (1)": 500,
}


@pytest.mark.parametrize(("statement", "status"), VIOLATIONS.items())
async def test_database_error_has_its_status_and_shows_no_sql(
    app: FastAPI, client: AsyncClient, statement: str, status: int
) -> None:
    @app.get("/violate")
    async def violate(session: SessionDep) -> None:
        columns = "id INTEGER PRIMARY KEY, n INTEGER NOT NULL UNIQUE CHECK (n > 0)"
        await session.execute(text(f"CREATE TABLE things ({columns})"))
        await session.execute(text(statement))

    response = await client.get("/violate")

    assert problem(response)["status"] == status
    assert "things" not in response.text
