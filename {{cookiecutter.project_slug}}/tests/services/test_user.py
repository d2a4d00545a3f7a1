"""UserService: version conflicts, missing users, and cursors."""

import pytest

from app.core.db import session_scope
from app.errors import ConflictError, InvalidCursorError, NotFoundError
from app.schemas.user import UserCreate, UserUpdate
from app.services.user import UserService
from tests.support import user_values

ADA = UserCreate(**user_values())


async def test_update_conflict_names_the_current_version(databases: None) -> None:
    async with session_scope() as session:
        users = UserService(session)
        ada = await users.create(ADA)
        await users.update(ada.id, UserUpdate(version=1, name="Countess"))

        with pytest.raises(ConflictError, match="has version 2, not 1: read it again"):
            await users.update(ada.id, UserUpdate(version=1, name="Lady"))


async def test_update_of_a_deleted_user_is_not_found(databases: None) -> None:
    async with session_scope() as session:
        users = UserService(session)
        ada = await users.create(ADA)
        await users.delete(ada.id)

        with pytest.raises(NotFoundError, match=f"There is no user {ada.id}"):
            await users.update(ada.id, UserUpdate(version=1))


async def test_full_last_page_has_no_next(databases: None) -> None:
    async with session_scope() as session:
        users = UserService(session)
        await users.create(ADA)

        page = await users.page(1, None)

    assert (len(page.items), page.next) == (1, None)


@pytest.mark.parametrize("after", ["", "x", "é", "bnVsbA", "eyJpZCI6IDF9", "=" * 9, "\x00"])
async def test_invalid_cursor_is_refused(databases: None, after: str) -> None:
    async with session_scope() as session:
        with pytest.raises(InvalidCursorError, match="`after` must be the `next`"):
            await UserService(session).page(1, after)
