"""Users: request bodies that are refused, and names in any script."""

from typing import Any

import pytest
from httpx2 import AsyncClient

from tests.support import USERS

ADA = {"name": "Ada", "email": "ada@example.com"}


async def create(client: AsyncClient, **values: Any) -> Any:
    response = await client.post(USERS, json=ADA | values)
    assert response.status_code == 201, response.text
    return response.json()


@pytest.mark.parametrize(
    "body",
    [
        {},
        {"name": "", "email": "ada@example.com"},
        {"name": " ", "email": "ada@example.com"},
        {"name": "x" * 201, "email": "ada@example.com"},
        {"name": "A\x00da", "email": "ada@example.com"},
        {"name": "Ada", "email": "ada"},
        {"name": None, "email": "ada@example.com"},
        [],
    ],
)
async def test_invalid_body_is_422(client: AsyncClient, body: Any) -> None:
    assert (await client.post(USERS, json=body)).status_code == 422


@pytest.mark.parametrize("change", [{}, {"version": 0}, {"version": 2**31}, {"version": 1, "x": 1}])
async def test_invalid_update_is_422(client: AsyncClient, change: Any) -> None:
    ada = await create(client)

    assert (await client.patch(f"{USERS}/{ada['id']}", json=change)).status_code == 422


@pytest.mark.parametrize("content", [b"{", b'{"name": "\\ud800", "email": "a@example.com"}'])
async def test_malformed_json_is_422(client: AsyncClient, content: bytes) -> None:
    headers = {"content-type": "application/json"}

    assert (await client.post(USERS, content=content, headers=headers)).status_code == 422


@pytest.mark.parametrize("name", ["Ада", "🦄", "مرحبا", "'; DROP TABLE users; --", "a\nb"])
async def test_name_is_returned_unchanged(client: AsyncClient, name: str) -> None:
    assert (await create(client, name=name))["name"] == name
