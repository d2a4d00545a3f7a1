"""The baseline of all ratios: a correct, hand-written app with FastAPI, SQLAlchemy's ORM and asyncpg."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Annotated, Any
from uuid import UUID

from fastapi import Depends, FastAPI, HTTPException
from sqlalchemy import select
from sqlalchemy.ext.asyncio import AsyncSession, async_sessionmaker, create_async_engine

from benchmarks.contenders.users import ASYNC_URL, POOL, Limit, Page, User, UserCreate, UserRead

engine = create_async_engine(ASYNC_URL, **POOL)
sessions = async_sessionmaker(engine, expire_on_commit=False)


@asynccontextmanager
async def lifespan(_: FastAPI) -> AsyncIterator[None]:
    yield
    await engine.dispose()


async def get_session() -> AsyncIterator[AsyncSession]:
    async with sessions.begin() as session:
        yield session


app = FastAPI(lifespan=lifespan)
Session = Annotated[AsyncSession, Depends(get_session, scope="function")]


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
    await session.flush()
    return user
