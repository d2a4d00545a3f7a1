"""DBWarden's `get_session`, as shipped, with its own pool (5 connections, and 10 overflow).

It never commits, so the route does. Do not name a file dbwarden.py: DBWarden would load it as its
configuration.
"""

import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Annotated, Any
from uuid import UUID

from dbwarden_fastapi import dbwarden_lifespan, get_session
from fastapi import Depends, FastAPI, HTTPException
from sqlalchemy import select
from sqlalchemy.ext.asyncio import AsyncSession

from benchmarks.contenders.users import Limit, Page, User, UserCreate, UserRead

os.environ["DBWARDEN_CONFIG_MODULE"] = "benchmarks.contenders.dbwarden_config"


@asynccontextmanager
async def lifespan(app: FastAPI) -> AsyncIterator[None]:
    async with dbwarden_lifespan(app, mode="none"):  # the service's migrations created the tables
        yield


app = FastAPI(lifespan=lifespan)
Session = Annotated[AsyncSession, Depends(get_session())]


@app.get("/users/{user_id}", response_model=UserRead)
async def get_user(user_id: UUID, session: Session) -> User:
    user = await session.get(User, user_id)
    if user is None:
        raise HTTPException(404)
    return user


@app.get("/users", response_model=Page)
async def list_users(session: Session, limit: Limit = 50) -> dict[str, Any]:
    statement = select(User).order_by(User.created_at, User.id).limit(limit)
    return {"items": (await session.scalars(statement)).all(), "next": None}


@app.post("/users", response_model=UserRead, status_code=201)
async def create_user(new: UserCreate, session: Session) -> User:
    user = User(**new.model_dump())
    session.add(user)
    await session.commit()
    return user
