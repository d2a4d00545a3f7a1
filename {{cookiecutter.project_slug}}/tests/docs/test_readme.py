"""The route of the README."""

from fastapi import FastAPI
from httpx2 import AsyncClient

from tests.docs.conftest import Load
from tests.support import user_values


async def test_route_counts_users(app: FastAPI, client: AsyncClient, load: Load) -> None:
    app.include_router(load("a route").router)
    await client.post("/users", json=user_values())

    assert (await client.get("/user-count")).json() == 1
