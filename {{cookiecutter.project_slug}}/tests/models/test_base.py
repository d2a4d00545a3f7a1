"""Shared by all models: constraint names and UTC datetimes."""

from datetime import UTC, datetime, timedelta, timezone

import pytest
from sqlalchemy import MetaData
from sqlalchemy.exc import StatementError

from app.core.db import session_scope
from app.models import METADATA, User
from tests.support import new_user


@pytest.mark.parametrize("metadata", METADATA.values(), ids=METADATA)
def test_every_constraint_has_a_name(metadata: MetaData) -> None:
    for table in metadata.tables.values():
        assert all(constraint.name for constraint in table.constraints)
        assert all(index.name for index in table.indexes)


@pytest.mark.parametrize("zone", [UTC, timezone(timedelta(hours=5, minutes=30))])
async def test_datetime_is_returned_as_the_same_instant_in_utc(
    databases: None, zone: timezone
) -> None:
    time = datetime(2026, 2, 28, 23, 59, 59, 999_999, zone)
    async with session_scope() as session:
        session.add(new_user(created_at=time))

    async with session_scope() as session:
        ada = (await session.scalars(User.__table__.select())).one()
        stored = (await session.get_one(User, ada)).created_at

    assert time == stored
    assert stored.tzinfo is UTC


async def test_naive_datetime_is_refused(databases: None) -> None:
    with pytest.raises(StatementError, match="has no time zone"):
        async with session_scope() as session:
            naive = datetime(2026, 1, 1)  # noqa: DTZ001
            session.add(new_user(created_at=naive))
