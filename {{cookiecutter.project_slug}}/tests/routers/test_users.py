"""/users: create, read, list, update, delete; conflicts and validation."""

import asyncio
from typing import Any
from uuid import UUID, uuid4

import pytest
from httpx2 import AsyncClient

from app.routers import API_PREFIX
from tests.support import user_values

USERS = f"{API_PREFIX}/users"

ADA = user_values()


async def create(client: AsyncClient, **values: Any) -> Any:
    response = await client.post(USERS, json=ADA | values)
    assert response.status_code == 201, response.text
    return response.json()


async def test_user_is_created_and_read(client: AsyncClient) -> None:
    ada = await create(client)

    assert {"id", "version", "created_at", *ADA} == set(ada)
    assert UUID(ada["id"])
    assert ada["created_at"].endswith("Z")
    assert ada == (await client.get(f"{USERS}/{ada['id']}")).json()


async def test_unknown_user_is_not_found(client: AsyncClient) -> None:
    for method in ("GET", "DELETE"):
        assert (await client.request(method, f"{USERS}/{uuid4()}")).status_code == 404
    assert (await client.patch(f"{USERS}/{uuid4()}", json={"version": 1})).status_code == 404


async def test_duplicate_email_is_409(client: AsyncClient) -> None:
    await create(client)

    assert (await client.post(USERS, json=ADA)).status_code == 409

    bob = await create(client, email="bob@example.com")
    change = {"version": 1, "email": ADA["email"]}
    assert (await client.patch(f"{USERS}/{bob['id']}", json=change)).status_code == 409


async def test_update_changes_the_given_fields(client: AsyncClient) -> None:
    ada = await create(client)

    response = await client.patch(f"{USERS}/{ada['id']}", json={"version": 1, "name": "Countess"})

    assert response.json() == ada | {"name": "Countess", "version": 2}
    assert response.json() == (await client.get(f"{USERS}/{ada['id']}")).json()


async def test_one_of_many_concurrent_updates_of_a_version_wins(client: AsyncClient) -> None:
    ada = await create(client)

    responses = await asyncio.gather(
        *(
            client.patch(f"{USERS}/{ada['id']}", json={"version": 1, "name": str(n)})
            for n in range(10)
        )
    )

    assert [200] + [409] * 9 == sorted(response.status_code for response in responses)
    assert (await client.get(f"{USERS}/{ada['id']}")).json()["version"] == 2


async def test_deleted_user_is_not_found(client: AsyncClient) -> None:
    ada = await create(client)

    assert (await client.delete(f"{USERS}/{ada['id']}")).status_code == 204
    assert (await client.get(f"{USERS}/{ada['id']}")).status_code == 404


async def test_pages_show_every_user_once_in_the_order_of_creation(client: AsyncClient) -> None:
    created = [(await create(client, email=f"{n}@example.com"))["email"] for n in range(5)]

    seen: list[str] = []
    after: dict[str, str] = {}
    while True:
        page = (await client.get(USERS, params={"limit": "2"} | after)).json()
        seen += [user["email"] for user in page["items"]]
        if page["next"] is None:
            break
        after = {"after": page["next"]}

    assert created == seen


@pytest.mark.parametrize(
    "query", ["limit=0", "limit=1001", "limit=x", "after=x", "after=%00", "after=" + "x" * 501]
)
async def test_invalid_query_is_422(client: AsyncClient, query: str) -> None:
    assert (await client.get(f"{USERS}?{query}")).status_code == 422
