"""What docs/sessions.md shows of a job and of an import does what it says."""

import asyncio

import pytest
from sqlalchemy.exc import IntegrityError

from app.core.db import session_scope
from tests.docs.conftest import Load
from tests.inspection import fetch, stored_users
from tests.support import new_user


async def test_job_does_its_work(load: Load) -> None:
    async with session_scope() as session:
        session.add_all([new_user(" Ada "), new_user("Grace")])

    await load("a job").job()

    assert await fetch("SELECT name FROM users ORDER BY name") == [("Ada",), ("Grace",)]


async def test_job_that_fails_has_done_nothing(load: Load) -> None:
    async with session_scope() as session:
        session.add(new_user(" Ada "))

    with pytest.raises(LookupError):
        async with session_scope() as session:
            assert await load("a job").trim_names(session) == 1
            raise LookupError

    assert await fetch("SELECT name FROM users") == [(" Ada ",)]


async def test_import_forgives_nothing_but_what_is_there_already(load: Load) -> None:
    import_users = load("an import").import_users

    with pytest.raises(IntegrityError):
        async with session_scope() as session:
            session.add(new_user())
            await import_users(session, [None])

    assert await stored_users() == 0


async def test_imports_in_different_orders_do_not_wait_for_each_other(load: Load) -> None:
    import_users = load("an import").import_users
    emails = [f"{n}@example.com" for n in range(40)]

    async def import_(emails: list[str]) -> int:
        async with session_scope() as session:
            return len(await import_users(session, emails))

    known = await asyncio.gather(import_(emails), import_(emails[::-1]))

    assert sorted(known) == [0, 40]
    assert await stored_users() == 40
