"""Routes for users."""

from uuid import UUID

from fastapi import APIRouter, status

from app.dependencies import ReadSessionDep, SessionDep
from app.schemas.page import After, Limit
from app.schemas.user import UserCreate, UserPage, UserRead, UserUpdate
from app.services.user import UserService

router = APIRouter(prefix="/users", tags=["users"])


@router.post("", status_code=status.HTTP_201_CREATED)
async def create_user(new: UserCreate, session: SessionDep) -> UserRead:
    return await UserService(session).create(new)


@router.get("/{user_id}")
async def get_user(user_id: UUID, session: ReadSessionDep) -> UserRead:
    return await UserService(session).get(user_id)


@router.get("")
async def list_users(session: ReadSessionDep, limit: Limit = 50, after: After = None) -> UserPage:
    return await UserService(session).page(limit, after)


@router.patch("/{user_id}")
async def update_user(user_id: UUID, change: UserUpdate, session: SessionDep) -> UserRead:
    return await UserService(session).update(user_id, change)


@router.delete("/{user_id}", status_code=status.HTTP_204_NO_CONTENT)
async def delete_user(user_id: UUID, session: SessionDep) -> None:
    await UserService(session).delete(user_id)
