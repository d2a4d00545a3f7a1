"""The table of users and the schemas, shared by the contenders."""

import os
from datetime import UTC, datetime
from typing import Annotated
from uuid import UUID, uuid4

from fastapi import Query
from pydantic import BaseModel, ConfigDict, EmailStr, Field
from sqlalchemy import DateTime, String
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column

URL = os.environ["DATABASE_URL"]
ASYNC_URL = URL.replace("postgresql:", "postgresql+asyncpg:", 1)
SYNC_URL = URL.replace("postgresql:", "postgresql+psycopg:", 1)
POOL = {"pool_size": 20, "max_overflow": 0}

Limit = Annotated[int, Query(ge=1, le=1000)]


class Base(DeclarativeBase):
    pass


class User(Base):
    __tablename__ = "users"

    id: Mapped[UUID] = mapped_column(primary_key=True, default=uuid4)
    name: Mapped[str] = mapped_column(String(200))
    email: Mapped[str] = mapped_column(String(320), unique=True)
    version: Mapped[int] = mapped_column(default=1)
    created_at: Mapped[datetime] = mapped_column(
        DateTime(timezone=True), default=lambda: datetime.now(UTC)
    )


class UserCreate(BaseModel):
    name: Annotated[str, Field(min_length=1, max_length=200)]
    email: EmailStr


class UserRead(BaseModel):
    model_config = ConfigDict(from_attributes=True)

    id: UUID
    name: str
    email: str
    version: int
    created_at: datetime


class Page(BaseModel):
    items: list[UserRead]
    next: str | None = None
