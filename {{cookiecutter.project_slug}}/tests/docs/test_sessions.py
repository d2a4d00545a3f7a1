"""What docs/sessions.md shows of a job does what it says."""

from datetime import UTC, datetime, timedelta

import pytest

from app.core.db import session_scope
from tests.docs.conftest import Load
from tests.inspection import stored_users
from tests.support import new_user


async def test_job_forgets_whom_it_should(load: Load) -> None:
    old = new_user()
    old.created_at = datetime.now(UTC) - timedelta(days=100)
    async with session_scope() as session:
        session.add_all([old, new_user()])

    await load("a job").job()

    assert await stored_users() == 1


async def test_job_that_fails_forgets_nobody(load: Load, monkeypatch: pytest.MonkeyPatch) -> None:
    a_job = load("a job")
    async with session_scope() as session:
        session.add(new_user())
    monkeypatch.setattr(a_job, "DAYS", -1)

    with pytest.raises(LookupError):
        async with session_scope() as session:
            assert await a_job.forget_users(session) == 1
            raise LookupError

    assert await stored_users() == 1
