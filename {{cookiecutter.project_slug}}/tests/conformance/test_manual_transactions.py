"""A route may commit, roll back, refresh and use savepoints itself, and then keep using its session."""

import pytest
from sqlalchemy.exc import IntegrityError

from app.core.db import session_scope
from app.models import User
from tests.inspection import stored_users
from tests.support import new_user


async def test_session_is_usable_after_manual_commit_refresh_and_rollback(databases: None) -> None:
    async with session_scope() as session:
        ada = new_user()
        session.add(ada)
        await session.commit()
        await session.refresh(ada)
        session.add(new_user())
        await session.rollback()
        session.add(new_user())

    assert await stored_users() == 2


async def test_manual_commit_is_kept_when_the_block_fails_later(databases: None) -> None:
    with pytest.raises(ValueError, match="later"):
        async with session_scope() as session:
            session.add(new_user())
            await session.commit()
            session.add(new_user())
            await session.flush()
            raise ValueError("later")

    assert await stored_users() == 1


async def test_failed_savepoint_discards_only_its_own_writes(databases: None) -> None:
    async with session_scope() as session:
        ada = new_user()
        session.add(ada)
        await session.flush()
        with pytest.raises(IntegrityError):
            async with session.begin_nested():
                session.add(User(name="Twin", email=ada.email))
        session.add(new_user())

    assert await stored_users() == 2


async def test_rollback_discards_the_writes_of_a_released_savepoint(databases: None) -> None:
    async with session_scope() as session:
        async with session.begin_nested():
            session.add(new_user())
        await session.rollback()

    assert await stored_users() == 0
