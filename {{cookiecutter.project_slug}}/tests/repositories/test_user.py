"""UserRepository: it never commits; pages and versions."""

from uuid import uuid4

from app.core.db import session_scope
from app.repositories.user import UserRepository
from tests.support import user_values


async def test_add_stores_and_does_not_commit(databases: None) -> None:
    async with session_scope() as session:
        ada = await UserRepository(session).add(user_values())
        await session.rollback()

    async with session_scope() as session:
        assert await UserRepository(session).get(ada.id) is None


async def test_next_page_starts_after_its_key_even_with_equal_times(databases: None) -> None:
    async with session_scope() as session:
        users = UserRepository(session)
        first = await users.add(user_values("0"))
        for n in range(1, 5):
            await users.add(user_values(str(n), created_at=first.created_at))

        one = await users.page(2, None)
        two = await users.page(9, (one[-1].created_at, one[-1].id))

    assert (2, 3) == (len(one), len(two))
    assert {user.name for user in (*one, *two)} == set("01234")


async def test_update_needs_the_stored_version(databases: None) -> None:
    async with session_scope() as session:
        users = UserRepository(session)
        ada = await users.add(user_values())

        changed = await users.update(ada.id, 1, {"name": "Countess"})

        assert changed is not None
        assert (changed.name, changed.version) == ("Countess", 2)
        assert await users.update(ada.id, 1, {"name": "Lady"}) is None


async def test_delete_returns_whether_the_user_existed(databases: None) -> None:
    async with session_scope() as session:
        users = UserRepository(session)
        ada = await users.add(user_values())

        assert await users.delete(ada.id)
        assert not await users.delete(ada.id)
        assert not await users.delete(uuid4())
