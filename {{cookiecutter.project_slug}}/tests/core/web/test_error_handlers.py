"""Errors as application/problem+json."""

from fastapi import FastAPI
from httpx2 import AsyncClient

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
