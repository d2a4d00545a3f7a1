"""FastAPI and asyncpg's pool, without SQLAlchemy: the upper limit."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from typing import Any
from uuid import UUID, uuid4

import asyncpg
from fastapi import FastAPI, HTTPException

from benchmarks.contenders.users import URL, Limit, Page, UserCreate, UserRead

COLUMNS = "id, name, email, version, created_at"
SELECT = f"SELECT {COLUMNS} FROM users WHERE id = $1"
PAGE = f"SELECT {COLUMNS} FROM users ORDER BY created_at, id LIMIT $1"
INSERT = f"INSERT INTO users ({COLUMNS}) VALUES ($1, $2, $3, 1, $4) RETURNING {COLUMNS}"


async def keep(_: asyncpg.Connection) -> None:
    """Do not reset a returned connection: this app never changes its settings."""


@asynccontextmanager
async def lifespan(app: FastAPI) -> AsyncIterator[None]:
    async with asyncpg.create_pool(URL, min_size=20, max_size=20, reset=keep) as app.state.pool:
        yield


app = FastAPI(lifespan=lifespan)


@app.get("/users/{user_id}", response_model=UserRead)
async def get_user(user_id: UUID) -> dict[str, Any]:
    row = await app.state.pool.fetchrow(SELECT, user_id)
    if row is None:
        raise HTTPException(404)
    return dict(row)


@app.get("/users", response_model=Page)
async def list_users(limit: Limit = 50) -> dict[str, Any]:
    rows = await app.state.pool.fetch(PAGE, limit)
    return {"items": [dict(row) for row in rows], "next": None}


@app.post("/users", response_model=UserRead, status_code=201)
async def create_user(new: UserCreate) -> dict[str, Any]:
    now = datetime.now(UTC)
    return dict(await app.state.pool.fetchrow(INSERT, uuid4(), new.name, new.email, now))
