"""Advanced Alchemy, as in its documentation for FastAPI: a service, and commit_mode="autocommit".

A middleware commits after the response has been sent.
"""

from collections.abc import AsyncIterator
from typing import Annotated, Any
from uuid import UUID

from advanced_alchemy.exceptions import NotFoundError
from advanced_alchemy.extensions.fastapi import (
    AdvancedAlchemy,
    AsyncSessionConfig,
    EngineConfig,
    SQLAlchemyAsyncConfig,
    repository,
    service,
)
from advanced_alchemy.filters import LimitOffset
from fastapi import Depends, FastAPI, HTTPException, Request
from sqlalchemy.ext.asyncio import AsyncSession

from benchmarks.contenders.users import ASYNC_URL, POOL, Limit, Page, User, UserCreate, UserRead

app = FastAPI()
alchemy = AdvancedAlchemy(
    SQLAlchemyAsyncConfig(
        connection_string=ASYNC_URL,
        engine_config=EngineConfig(**POOL),
        session_config=AsyncSessionConfig(expire_on_commit=False),
        commit_mode="autocommit",
    ),
    app,
)


class UserService(service.SQLAlchemyAsyncRepositoryService[User]):
    class Repo(repository.SQLAlchemyAsyncRepository[User]):
        model_type = User

    repository_type = Repo


Session = Annotated[AsyncSession, Depends(alchemy.provide_session())]


async def provide_users(session: Session) -> AsyncIterator[UserService]:
    async with UserService.new(session=session) as users:
        yield users


Users = Annotated[UserService, Depends(provide_users)]


@app.exception_handler(NotFoundError)
async def not_found(_: Request, error: Exception) -> None:
    raise HTTPException(404) from error


@app.get("/users/{user_id}", response_model=UserRead)
async def get_user(user_id: UUID, users: Users) -> UserRead:
    return users.to_schema(await users.get(user_id), schema_type=UserRead)


@app.get("/users", response_model=Page)
async def list_users(users: Users, limit: Limit = 50) -> dict[str, Any]:
    order = [(User.created_at, False), (User.id, False)]
    found = await users.get_many(LimitOffset(limit, 0), order_by=order)
    return {"items": users.to_schema(found, schema_type=UserRead).items, "next": None}


@app.post("/users", response_model=UserRead, status_code=201)
async def create_user(new: UserCreate, users: Users) -> UserRead:
    return users.to_schema(await users.create(new), schema_type=UserRead)
