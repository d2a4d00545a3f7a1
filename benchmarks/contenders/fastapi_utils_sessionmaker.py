"""fastapi-utils' FastAPISessionMaker, as in its documentation: synchronous, a ping on every checkout.

It creates the pool (5 connections, and 10 overflow) and commits after the response. With more clients
than connections it may stall, because all of FastAPI's 40 threads wait for a connection.
"""

from collections.abc import Iterator
from functools import cache
from typing import Annotated, Any
from uuid import UUID

from fastapi import Depends, FastAPI, HTTPException
from fastapi_utils.session import FastAPISessionMaker
from sqlalchemy import select
from sqlalchemy.orm import Session

from benchmarks.contenders.users import SYNC_URL, Limit, Page, User, UserCreate, UserRead


@cache
def session_maker() -> FastAPISessionMaker:
    return FastAPISessionMaker(SYNC_URL)


def get_db() -> Iterator[Session]:
    yield from session_maker().get_db()


app = FastAPI()
Db = Annotated[Session, Depends(get_db)]


@app.get("/users/{user_id}", response_model=UserRead)
def get_user(user_id: UUID, db: Db) -> User:
    user = db.get(User, user_id)
    if user is None:
        raise HTTPException(404)
    return user


@app.get("/users", response_model=Page)
def list_users(db: Db, limit: Limit = 50) -> dict[str, Any]:
    statement = select(User).order_by(User.created_at, User.id).limit(limit)
    return {"items": db.scalars(statement).all(), "next": None}


@app.post("/users", response_model=UserRead, status_code=201)
def create_user(new: UserCreate, db: Db) -> User:
    user = User(**new.model_dump())
    db.add(user)
    db.flush()
    return user
