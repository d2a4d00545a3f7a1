"""Operations on users."""

from uuid import UUID

from sqlalchemy.ext.asyncio import AsyncSession

from app.errors import ConflictError, NotFoundError
from app.repositories.user import UserRepository
from app.schemas.user import UserCreate, UserCursor, UserPage, UserRead, UserUpdate


class UserService:
    def __init__(self, session: AsyncSession) -> None:
        self.users = UserRepository(session)

    async def create(self, new: UserCreate) -> UserRead:
        return UserRead.model_validate(await self.users.add(new.model_dump()))

    async def get(self, user_id: UUID) -> UserRead:
        user = await self.users.get(user_id)
        if user is None:
            raise NotFoundError(f"There is no user {user_id}.")
        return UserRead.model_validate(user)

    async def page(self, limit: int, after: str | None) -> UserPage:
        cursor = UserCursor.decode(after)
        key = (cursor.created_at, cursor.id) if cursor else None
        return UserPage.from_rows(await self.users.page(limit + 1, key), limit, UserCursor)

    async def update(self, user_id: UUID, change: UserUpdate) -> UserRead:
        values = change.model_dump(exclude={"version"}, exclude_none=True)
        changed = await self.users.update(user_id, change.version, values)
        if changed is None:
            current = await self.get(user_id)
            raise ConflictError(
                f"The user has version {current.version}, not {change.version}: read it again."
            )
        return UserRead.model_validate(changed)

    async def delete(self, user_id: UUID) -> None:
        if not await self.users.delete(user_id):
            raise NotFoundError(f"There is no user {user_id}.")
