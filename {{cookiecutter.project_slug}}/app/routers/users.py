"""Routes of users."""

from uuid import UUID

from fastapi import APIRouter, status

from app.dependencies import UserReaderDep, UserServiceDep
from app.schemas.page import After, Limit, Page
from app.schemas.user import UserCreate, UserRead, UserUpdate

router = APIRouter(prefix="/users", tags=["users"])


@router.post("", status_code=status.HTTP_201_CREATED)
async def create_user(new: UserCreate, users: UserServiceDep) -> UserRead:
    return await users.create(new)


@router.get("/{user_id}")
async def get_user(user_id: UUID, users: UserReaderDep) -> UserRead:
    return await users.get(user_id)


@router.get("")
async def list_users(
    users: UserReaderDep, limit: Limit = 50, after: After = None
) -> Page[UserRead]:
    return await users.page(limit, after)


@router.patch("/{user_id}")
async def update_user(user_id: UUID, change: UserUpdate, users: UserServiceDep) -> UserRead:
    return await users.update(user_id, change)


@router.delete("/{user_id}", status_code=status.HTTP_204_NO_CONTENT)
async def delete_user(user_id: UUID, users: UserServiceDep) -> None:
    await users.delete(user_id)
