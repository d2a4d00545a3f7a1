"""SQL statements for users."""

from collections.abc import Sequence
from datetime import datetime
from typing import Any, cast
from uuid import UUID

from sqlalchemy import Integer, Row, Table, bindparam, delete, insert, select, tuple_, update
from sqlalchemy.ext.asyncio import AsyncSession

from app.core.db import prepared
from app.models.user import User

USERS = cast("Table", User.__table__)

# Built once. Core statements: rows that are inserted or returned unchanged need no ORM entity.
INSERT = prepared(insert(USERS).returning(USERS))
ROW = prepared(select(USERS).where(USERS.c.id == bindparam("id")))
_PAGE = (
    select(USERS).order_by(USERS.c.created_at, USERS.c.id).limit(bindparam("limit", type_=Integer))
)
PAGE = prepared(_PAGE)
NEXT_PAGE = prepared(
    _PAGE.where(
        tuple_(USERS.c.created_at, USERS.c.id)
        > tuple_(
            bindparam("after_time", type_=USERS.c.created_at.type),
            bindparam("after_id", type_=USERS.c.id.type),
        )
    )
)


class UserRepository:
    def __init__(self, session: AsyncSession) -> None:
        self.session = session

    async def add(self, values: dict[str, Any]) -> Row[Any]:
        """Insert a user; return the stored row."""
        return await INSERT.one(self.session, **values)

    async def get(self, user_id: UUID) -> Row[Any] | None:
        return await ROW.one_or_none(self.session, id=user_id)

    async def page(self, limit: int, after: tuple[datetime, UUID] | None) -> Sequence[Row[Any]]:
        """Return users in the order of their creation, starting after the key `after`."""
        if after is None:
            return await PAGE.all(self.session, limit=limit)
        time, id_ = after
        return await NEXT_PAGE.all(self.session, limit=limit, after_time=time, after_id=id_)

    # ORM statements: the loaded entity and the check of its version are worth more here than speed.

    async def update(self, user_id: UUID, version: int, values: dict[str, Any]) -> User | None:
        """Return the updated user, or None if no user has this id and version."""
        statement = (
            update(User)
            .where(User.id == user_id, User.version == version)
            .values(values | {"version": User.version + 1})
            .returning(User)
        )
        return (await self.session.scalars(statement)).one_or_none()

    async def delete(self, user_id: UUID) -> bool:
        """Return whether the user existed."""
        statement = delete(User).where(User.id == user_id).returning(User.id)
        return (await self.session.scalars(statement)).one_or_none() is not None
