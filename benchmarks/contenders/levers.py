"""Levers: `bare` with one choice made otherwise, which the variable LEVER names."""

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


async def look_first(session: AsyncSession, user: User) -> None:
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


class Lever(NamedTuple):
    engine: dict[str, Any] = POOL
    reading_engine: dict[str, Any] | None = None
    middleware: Any = None
    dependency: Callable[..., Any] | None = None  # one more
    create: Callable[[AsyncSession, User], Awaitable[None]] = flush
    commits: bool = True


LEVERS = {
    "bare": Lever(),
    "reads in AUTOCOMMIT": Lever(reading_engine=POOL | {"isolation_level": "AUTOCOMMIT"}),
    "ping on every checkout": Lever(engine=POOL | {"pool_pre_ping": True}),
    "pool of 5 + 10": Lever(engine={}),
    "BaseHTTPMiddleware": Lever(middleware=BaseMiddleware),
    "pure ASGI middleware": Lever(middleware=PureMiddleware),
    "def dependency": Lever(dependency=def_dependency),
    "class dependency": Lever(dependency=ClassDependency),
    "SELECT before INSERT": Lever(create=look_first),
    "savepoint around INSERT": Lever(create=in_savepoint),
    "commit and refresh in the route": Lever(create=commit_and_refresh, commits=False),
}


def create_app(lever: Lever) -> FastAPI:
    engine = create_async_engine(ASYNC_URL, **lever.engine)
    sessions = async_sessionmaker(engine, expire_on_commit=False)
    reading_sessions = sessions
    if lever.reading_engine:
        reading_engine = create_async_engine(ASYNC_URL, **lever.reading_engine)
        reading_sessions = async_sessionmaker(reading_engine, expire_on_commit=False)

    async def get_session() -> AsyncIterator[AsyncSession]:
        async with sessions.begin() if lever.commits else sessions() as session:
            yield session

    async def get_reading_session() -> AsyncIterator[AsyncSession]:
        async with reading_sessions() as session:
            yield session

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        yield
        await engine.dispose()
        if lever.reading_engine:
            await reading_engine.dispose()

    Session = Annotated[AsyncSession, Depends(get_session, scope="function")]
    ReadingSession = Session
    if lever.reading_engine:
        ReadingSession = Annotated[AsyncSession, Depends(get_reading_session, scope="function")]

    dependencies = [Depends(lever.dependency)] if lever.dependency else None
    app = FastAPI(lifespan=lifespan, dependencies=dependencies)
    if lever.middleware:
        app.add_middleware(lever.middleware)

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
        await lever.create(session, user)
        return user

    return app


app = create_app(LEVERS[os.environ["LEVER"]])
