"""The version column of `User`."""

import pytest
from sqlalchemy.orm.exc import StaleDataError

from app.core.db import session_scope
from app.models import User
from tests.support import new_user


async def test_flush_of_an_outdated_version_raises_stale_data_error(databases: None) -> None:
    async with session_scope() as session:
        ada = new_user()
        session.add(ada)

    async with session_scope() as session:
        (await session.get_one(User, ada.id)).name = "Countess"

    with pytest.raises(StaleDataError):
        async with session_scope() as session:
            (await session.merge(ada, load=False)).name = "Lady"
