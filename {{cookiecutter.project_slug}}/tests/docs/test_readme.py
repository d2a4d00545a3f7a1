"""The examples of README.md."""

import asyncio

from fastapi import FastAPI
from httpx2 import AsyncClient
from sqlalchemy import select

from app.core.db import session_scope
from app.models import User
from tests.docs.conftest import Load


async def test_route_counts_users(app: FastAPI, client: AsyncClient, load: Load) -> None:
    app.include_router(load("a route").router)
    await client.post("/users", json={"name": "Ada", "email": "ada@example.com"})

    assert (await client.get("/user-count")).json() == 1


def test_script_stores_a_user(load: Load) -> None:
    load("a script")

    async def names() -> list[str]:
        async with session_scope() as session:
            return list(await session.scalars(select(User.name)))

    assert asyncio.run(names()) == ["Grace"]
