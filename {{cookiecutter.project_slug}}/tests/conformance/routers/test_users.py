"""Users: request bodies that are refused, and names in any script."""

from typing import Any

import pytest
from httpx2 import AsyncClient

from tests.support import USERS, user_values

ADA = user_values()


async def create(client: AsyncClient, **values: Any) -> Any:
    response = await client.post(USERS, json=ADA | values)
    assert response.status_code == 201, response.text
    return response.json()


INVALID: list[Any] = [
    {},
    *(ADA | {"name": name} for name in ("", " ", "x" * 201, "A\x00da", None)),
    ADA | {"email": "ada"},
    [],
]
MALFORMED = [b"{", b'{"name": "\\ud800", "email": "a@example.com"}']
INVALID_UPDATES: list[Any] = [{}, {"version": 0}, {"version": 2**31}, {"version": 1, "x": 1}]


@pytest.mark.sqlite  # no invalid request reaches the database
async def test_invalid_request_is_422(client: AsyncClient) -> None:
    ada = await create(client)
    for body in INVALID:
        assert (await client.post(USERS, json=body)).status_code == 422, body
    for change in INVALID_UPDATES:
        response = await client.patch(f"{USERS}/{ada['id']}", json=change)
        assert response.status_code == 422, change
    headers = {"content-type": "application/json"}
    for content in MALFORMED:
        response = await client.post(USERS, content=content, headers=headers)
        assert response.status_code == 422, content


async def test_name_is_returned_unchanged(client: AsyncClient) -> None:
    for n, name in enumerate(("Ада", "🦄", "مرحبا", "'; DROP TABLE users; --", "a\nb")):
        assert (await create(client, name=name, email=f"{n}@example.com"))["name"] == name
