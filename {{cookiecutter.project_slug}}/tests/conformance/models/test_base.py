"""Time zones of stored times, and no implicit lazy loading."""

from datetime import UTC, datetime
from typing import Any

import pytest
from sqlalchemy import text
from sqlalchemy.orm import backref

from app.core.db import session_scope
from tests.conformance.support import relate
from tests.support import new_user


@pytest.mark.postgresql
async def test_datetime_is_stored_independently_of_the_time_zone_of_the_connection(
    databases: None,
) -> None:
    time = datetime(2026, 6, 1, 12, tzinfo=UTC)
    async with session_scope() as session:
        await session.execute(text("SET LOCAL TIME ZONE INTERVAL '+05:30' HOUR TO MINUTE"))
        session.add(new_user(created_at=time))
        await session.flush()
        column = await session.execute(
            text("SELECT pg_typeof(created_at)::text, created_at::text FROM users")
        )

        assert column.one() == ("timestamp with time zone", "2026-06-01 17:30:00+05:30")


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("Child.parent", {}),
        ("Child.parent", {"lazy": True}),
        ("Parent.children", {"lazy": "raise", "backref": "children"}),
        ("Parent.children", {"lazy": "raise", "backref": backref("children", lazy="dynamic")}),
    ],
)
def test_relationship_with_implicit_lazy_loading_is_refused(
    name: str, options: dict[str, Any]
) -> None:
    with pytest.raises(TypeError, match=rf'{name} .* relationship\(lazy="raise"\)'):
        relate(**options)


def test_relationships_of_other_libraries_may_load_implicitly() -> None:
    relate(is_own=False)
