"""Variants of `bare` that differ in one choice. The environment variable VARIANT selects one."""

import os
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Annotated, Any, NamedTuple
from uuid import UUID

from fastapi import Depends, FastAPI, HTTPException, Request
from sqlalchemy import select
from sqlalchemy.ext.asyncio import AsyncSession, async_sessionmaker, create_async_engine
from starlette.middleware.base import BaseHTTPMiddleware
from starlette.types import ASGIApp, Receive, Scope, Send

from benchmarks.contenders.users import ASYNC_URL, POOL, Limit, Page, User, UserCreate, UserRead


async def flush(session: AsyncSession, user: User) -> None:
    session.add(user)
    await session.flush()


async def select_first(session: AsyncSession, user: User) -> None:
    if await session.scalar(select(User.id).where(User.email == user.email)):
        raise HTTPException(409)
    await flush(session, user)


async def in_savepoint(session: AsyncSession, user: User) -> None:
    async with session.begin_nested():
        session.add(user)


async def commit_and_refresh(session: AsyncSession, user: User) -> None:
    session.add(user)
    await session.commit()
    await session.refresh(user)


class BaseMiddleware(BaseHTTPMiddleware):
    async def dispatch(self, request: Any, call_next: Any) -> Any:
        return await call_next(request)


class PureMiddleware:
    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        await self.app(scope, receive, send)


def def_dependency(request: Request) -> Request:
    return request


class ClassDependency:
    def __init__(self, request: Request) -> None:
        self.request = request


class Variant(NamedTuple):
    engine: dict[str, Any] = POOL
    reading_engine: dict[str, Any] | None = None
    middleware: Any = None
    dependency: Callable[..., Any] | None = None  # an additional one
    create: Callable[[AsyncSession, User], Awaitable[None]] = flush
    commits: bool = True


VARIANTS = {
    "bare": Variant(),
    "reads in AUTOCOMMIT": Variant(reading_engine=POOL | {"isolation_level": "AUTOCOMMIT"}),
    "ping on every checkout": Variant(engine=POOL | {"pool_pre_ping": True}),
    "pool of 5 + 10": Variant(engine={}),
    "BaseHTTPMiddleware": Variant(middleware=BaseMiddleware),
    "pure ASGI middleware": Variant(middleware=PureMiddleware),
    "def dependency": Variant(dependency=def_dependency),
    "class dependency": Variant(dependency=ClassDependency),
    "SELECT before INSERT": Variant(create=select_first),
    "savepoint around INSERT": Variant(create=in_savepoint),
    "commit and refresh in the route": Variant(create=commit_and_refresh, commits=False),
}


def create_app(variant: Variant) -> FastAPI:
    engine = create_async_engine(ASYNC_URL, **variant.engine)
    sessions = async_sessionmaker(engine, expire_on_commit=False)
    reading_sessions = sessions
    if variant.reading_engine:
        reading_engine = create_async_engine(ASYNC_URL, **variant.reading_engine)
        reading_sessions = async_sessionmaker(reading_engine, expire_on_commit=False)

    async def get_session() -> AsyncIterator[AsyncSession]:
        async with sessions.begin() if variant.commits else sessions() as session:
            yield session

    async def get_reading_session() -> AsyncIterator[AsyncSession]:
        async with reading_sessions() as session:
            yield session

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        yield
        await engine.dispose()
        if variant.reading_engine:
            await reading_engine.dispose()

    Session = Annotated[AsyncSession, Depends(get_session, scope="function")]
    ReadingSession = Session
    if variant.reading_engine:
        ReadingSession = Annotated[AsyncSession, Depends(get_reading_session, scope="function")]

    dependencies = [Depends(variant.dependency)] if variant.dependency else None
    app = FastAPI(lifespan=lifespan, dependencies=dependencies)
    if variant.middleware:
        app.add_middleware(variant.middleware)

    @app.get("/users/{user_id}", response_model=UserRead)
    async def get_user(user_id: UUID, session: ReadingSession) -> User:
        user = await session.get(User, user_id)
        if user is None:
            raise HTTPException(404)
        return user

    @app.get("/users", response_model=Page)
    async def list_users(session: ReadingSession, limit: Limit = 50) -> dict[str, Any]:
        statement = select(User).order_by(User.created_at, User.id).limit(limit)
        return {"items": (await session.scalars(statement)).all(), "next": None}

    @app.post("/users", response_model=UserRead, status_code=201)
    async def create_user(new: UserCreate, session: Session) -> User:
        user = User(**new.model_dump())
        await variant.create(session, user)
        return user

    return app


app = create_app(VARIANTS[os.environ["VARIANT"]])
