"""Request and response models of users."""

from datetime import datetime
from typing import Annotated
from uuid import UUID

from pydantic import BaseModel, ConfigDict, EmailStr, Field

from app.schemas.fields import Name, UtcTime
from app.schemas.page import Cursor, Page

Version = Annotated[int, Field(ge=1, le=2**31 - 1)]


class UserCreate(BaseModel):
    name: Name
    email: EmailStr


class UserUpdate(BaseModel):
    """Fields that are given and not null are changed, if `version` is the current version."""

    model_config = ConfigDict(extra="forbid")

    version: Version
    name: Name | None = None
    email: EmailStr | None = None


class UserRead(BaseModel):
    model_config = ConfigDict(from_attributes=True)

    id: UUID
    name: str
    email: str
    version: int
    created_at: datetime


UserPage = Page[UserRead]


class UserCursor(Cursor):
    created_at: UtcTime
    id: UUID
