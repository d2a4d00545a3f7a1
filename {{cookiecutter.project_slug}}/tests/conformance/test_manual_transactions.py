"""A route may commit, roll back, refresh and use savepoints, and go on."""

import pytest
from sqlalchemy.exc import IntegrityError

from app.core.db import session_scope
from app.models import User
from tests.inspection import stored_users
from tests.support import new_user


async def test_route_may_commit_roll_back_and_refresh_by_itself(databases: None) -> None:
    async with session_scope() as session:
        ada = new_user()
        session.add(ada)
        await session.commit()
        await session.refresh(ada)
        session.add(new_user())
        await session.rollback()
        session.add(new_user())

    assert await stored_users() == 2


async def test_what_was_committed_by_hand_survives_a_later_failure(databases: None) -> None:
    with pytest.raises(ValueError, match="later"):
        async with session_scope() as session:
            session.add(new_user())
            await session.commit()
            session.add(new_user())
            await session.flush()
            raise ValueError("later")

    assert await stored_users() == 1


async def test_savepoint_that_fails_takes_only_its_own_writes_along(databases: None) -> None:
    async with session_scope() as session:
        ada = new_user()
        session.add(ada)
        await session.flush()
        with pytest.raises(IntegrityError):
            async with session.begin_nested():
                session.add(User(name="Twin", email=ada.email))
        session.add(new_user())

    assert await stored_users() == 2


async def test_rollback_takes_along_what_a_released_savepoint_wrote(databases: None) -> None:
    async with session_scope() as session:
        async with session.begin_nested():
            session.add(new_user())
        await session.rollback()

    assert await stored_users() == 0
