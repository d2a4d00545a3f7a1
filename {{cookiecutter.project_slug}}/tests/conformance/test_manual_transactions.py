"""A route may commit, roll back, refresh and use savepoints itself, and then keep using its session."""

from app.core.db import session_scope
from tests.inspection import stored_users
from tests.support import new_user


async def test_rollback_discards_the_writes_of_a_released_savepoint(databases: None) -> None:
    async with session_scope() as session:
        async with session.begin_nested():
            session.add(new_user())
        await session.rollback()

    assert await stored_users() == 0
