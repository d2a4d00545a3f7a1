"""SQL for users."""

from collections.abc import Sequence
from datetime import datetime
from typing import Any
from uuid import UUID

from sqlalchemy import delete, select, tuple_, update
from sqlalchemy.ext.asyncio import AsyncSession

from app.models.user import User


class UserRepository:
    def __init__(self, session: AsyncSession) -> None:
        self.session = session

    async def add(self, user: User) -> User:
        self.session.add(user)
        await self.session.flush()
        return user

    async def get(self, user_id: UUID) -> User | None:
        return await self.session.get(User, user_id)

    async def page(self, limit: int, after: tuple[datetime, UUID] | None) -> Sequence[User]:
        """Return the users in the order of their creation, from behind the key `after`."""
        statement = select(User).order_by(User.created_at, User.id).limit(limit)
        if after is not None:
            statement = statement.where(tuple_(User.created_at, User.id) > after)
        return (await self.session.scalars(statement)).all()

    async def update(self, user_id: UUID, version: int, values: dict[str, Any]) -> User | None:
        """Return the changed user, or None where there is none of this id and version."""
        statement = (
            update(User)
            .where(User.id == user_id, User.version == version)
            .values(values | {"version": User.version + 1})
            .returning(User)
        )
        return (await self.session.scalars(statement)).one_or_none()

    async def delete(self, user_id: UUID) -> bool:
        """Return whether there was such a user."""
        statement = delete(User).where(User.id == user_id).returning(User.id)
        return (await self.session.scalars(statement)).one_or_none() is not None
