"""`bare` with the tricks that a careful engineer would use: Core statements built once, AUTOCOMMIT reads, no ORM session."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from typing import Annotated, Any, cast
from uuid import UUID, uuid4

from fastapi import Depends, FastAPI, HTTPException
from sqlalchemy import Integer, Table, bindparam, insert, select
from sqlalchemy.ext.asyncio import AsyncConnection, create_async_engine

from benchmarks.contenders.users import ASYNC_URL, POOL, Limit, Page, User, UserCreate, UserRead

engine = create_async_engine(ASYNC_URL, **POOL)
reading_engine = create_async_engine(ASYNC_URL, isolation_level="AUTOCOMMIT", **POOL)

USERS = cast("Table", User.__table__)
ROW = select(USERS).where(USERS.c.id == bindparam("id"))
PAGE = select(USERS).order_by(USERS.c.created_at, USERS.c.id).limit(bindparam("n", type_=Integer))
INSERT = insert(USERS).returning(USERS)


@asynccontextmanager
async def lifespan(_: FastAPI) -> AsyncIterator[None]:
    yield
    await engine.dispose()
    await reading_engine.dispose()


async def get_connection() -> AsyncIterator[AsyncConnection]:
    async with engine.begin() as connection:
        yield connection


async def get_reading_connection() -> AsyncIterator[AsyncConnection]:
    async with reading_engine.connect() as connection:
        yield connection


app = FastAPI(lifespan=lifespan)
Connection = Annotated[AsyncConnection, Depends(get_connection, scope="function")]
ReadingConnection = Annotated[AsyncConnection, Depends(get_reading_connection, scope="function")]


@app.get("/users/{user_id}", response_model=UserRead)
async def get_user(user_id: UUID, connection: ReadingConnection) -> Any:
    row = (await connection.execute(ROW, {"id": user_id})).one_or_none()
    if row is None:
        raise HTTPException(404)
    return row._asdict()


@app.get("/users", response_model=Page)
async def list_users(connection: ReadingConnection, limit: Limit = 50) -> dict[str, Any]:
    rows = (await connection.execute(PAGE, {"n": limit})).all()
    return {"items": [row._asdict() for row in rows], "next": None}


@app.post("/users", response_model=UserRead, status_code=201)
async def create_user(new: UserCreate, connection: Connection) -> Any:
    values = {"id": uuid4(), "version": 1, "created_at": datetime.now(UTC), **new.model_dump()}
    return (await connection.execute(INSERT, values)).one()._asdict()
