"""SQLModel, as in its tutorial: synchronous sessions, and `commit` and `refresh` in the route.

With more clients than connections it may stall, because all of FastAPI's 40 threads wait for a connection.
"""

from collections.abc import Iterator
from datetime import UTC, datetime
from typing import Annotated, Any
from uuid import UUID, uuid4

from fastapi import Depends, FastAPI, HTTPException
from pydantic import EmailStr
from sqlalchemy import DateTime
from sqlmodel import Field, Session, SQLModel, create_engine, select

from benchmarks.contenders.users import POOL, SYNC_URL, Limit

engine = create_engine(SYNC_URL, **POOL)


class UserBase(SQLModel):
    name: str = Field(min_length=1, max_length=200)
    email: EmailStr = Field(max_length=320, unique=True)


class User(UserBase, table=True):
    __tablename__ = "users"

    id: UUID = Field(default_factory=uuid4, primary_key=True)
    version: int = 1
    created_at: datetime = Field(
        default_factory=lambda: datetime.now(UTC), sa_type=DateTime(timezone=True)
    )


class UserCreate(UserBase):
    pass


class UserPublic(SQLModel):
    id: UUID
    name: str
    email: str
    version: int
    created_at: datetime


class Page(SQLModel):
    items: list[UserPublic]
    next: str | None = None


def get_session() -> Iterator[Session]:
    with Session(engine) as session:
        yield session


app = FastAPI()
SessionDep = Annotated[Session, Depends(get_session)]


@app.get("/users/{user_id}", response_model=UserPublic)
def get_user(user_id: UUID, session: SessionDep) -> User:
    user = session.get(User, user_id)
    if user is None:
        raise HTTPException(404)
    return user


@app.get("/users", response_model=Page)
def list_users(session: SessionDep, limit: Limit = 50) -> dict[str, Any]:
    statement = select(User).order_by(User.created_at, User.id).limit(limit)
    return {"items": session.exec(statement).all(), "next": None}


@app.post("/users", response_model=UserPublic, status_code=201)
def create_user(new: UserCreate, session: SessionDep) -> User:
    user = User.model_validate(new)
    session.add(user)
    session.commit()
    session.refresh(user)
    return user
