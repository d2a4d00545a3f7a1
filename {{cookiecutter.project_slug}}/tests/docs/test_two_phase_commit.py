"""What docs/databases.md says of prepared transactions is so."""

from collections.abc import AsyncGenerator
from contextlib import suppress
from typing import Any
from uuid import uuid4

import pytest
from sqlalchemy import event, func, select, text
from sqlalchemy.exc import DBAPIError, IntegrityError
from sqlalchemy.ext.asyncio import AsyncSession

from app.core.db import TransactionFailedError, dispose_engines, get_engine, session_scope
from app.models import Event, User, base
from tests.docs.conftest import Load
from tests.inspection import fetch
from tests.support import create_tables, new_user

pytestmark = pytest.mark.postgresql


async def prepared() -> list[str]:
    """Return the names of what is prepared in the analytics database."""
    names = text("SELECT gid FROM pg_prepared_xacts WHERE database = current_database()")
    async with session_scope("analytics") as session:
        return list(await session.scalars(names))


async def stored() -> tuple[int, int]:
    async with session_scope() as primary, session_scope("analytics") as analytics:
        return (
            await primary.scalar(select(func.count(User.id))) or 0,
            await analytics.scalar(select(func.count(Event.id))) or 0,
        )


@pytest.fixture
async def refusing_or_not(load: Load) -> AsyncGenerator[Any, None]:
    """The snippet, on a server that allows prepared transactions or does not."""
    two_phase = load("two-phase commit")
    await create_tables(base.PrimaryBase)
    yield two_phase
    for name in await prepared():  # of a test that failed
        engine = get_engine("analytics").execution_options(isolation_level="AUTOCOMMIT")
        async with engine.connect() as connection:
            await connection.execute(text(f"ROLLBACK PREPARED '{name}'"))


async def allows_prepared_transactions() -> bool:
    [(most,)] = await fetch("SHOW max_prepared_transactions")
    return int(most) > 0


@pytest.fixture
async def two_phase(refusing_or_not: Any) -> Any:
    if not await allows_prepared_transactions():
        pytest.skip("max_prepared_transactions is 0, and test_server_that_… has seen the refusal")
    return refusing_or_not


@pytest.fixture
def name() -> str:
    """The name of a prepared transaction, which a server with all its databases knows once."""
    return f"test-{uuid4()}"


async def test_server_that_does_not_allow_it_refuses_and_nothing_is_stored(
    refusing_or_not: Any, name: str
) -> None:
    if await allows_prepared_transactions():
        await refusing_or_not.sign_up(name, new_user())
        assert await prepared() == [name]
        return
    with pytest.raises(DBAPIError, match="prepared transactions are disabled"):
        await refusing_or_not.sign_up(name, new_user())
    assert await stored() == (0, 0)


async def test_transaction_in_doubt_holds_its_locks_until_it_is_finished(
    two_phase: Any, name: str
) -> None:
    """As after a crash: nobody has come to finish it, and every connection is closed."""
    await two_phase.sign_up(name, new_user())
    await dispose_engines()

    assert await stored() == (1, 0)
    with pytest.raises(DBAPIError, match="could not obtain lock"):
        async with session_scope("analytics") as session:
            await session.execute(text("LOCK TABLE events IN SHARE MODE NOWAIT"))

    await two_phase.finish(name)
    await two_phase.finish(name)  # the job has seen it just before

    assert await stored() == (1, 1)
    assert await prepared() == []


async def test_job_finds_what_is_in_doubt_and_nothing_of_others(two_phase: Any, name: str) -> None:
    ours = f"sign-up-{name}"
    await two_phase.sign_up(ours, new_user())
    await two_phase.sign_up(f"other-{name}", new_user())

    assert await two_phase.in_doubt() == []
    assert await two_phase.in_doubt(seconds=0) == [ours]


async def test_transaction_whose_other_commit_failed_is_rolled_back(
    two_phase: Any, name: str
) -> None:
    user = new_user()
    async with session_scope() as session:
        session.add(User(name="Ada", email=user.email))
    with pytest.raises(IntegrityError):
        await two_phase.sign_up(name, user)
    assert await prepared() == [name]

    await two_phase.finish(name)

    assert await stored() == (1, 0)
    assert await prepared() == []


async def test_whoever_commits_after_it_was_decided_against_fails(
    two_phase: Any, name: str
) -> None:
    async with session_scope() as session:
        session.add(two_phase.Decision(name=name, commits=False))

    with pytest.raises(IntegrityError):
        await two_phase.sign_up(name, new_user())
    await two_phase.finish(name)

    assert await stored() == (0, 0)
    assert await prepared() == []


async def test_failed_transaction_is_not_taken_for_a_prepared_one(
    two_phase: Any, name: str
) -> None:
    with pytest.raises(TransactionFailedError):
        async with session_scope("analytics") as session:
            session.add(Event(name="signed up"))
            await session.flush()
            with suppress(DBAPIError):
                await session.execute(text("SELECT 1 / 0"))
            await two_phase.prepare(session, name)

    assert await prepared() == []


async def test_what_follows_a_prepared_transaction_is_stored_at_once(
    two_phase: Any, name: str
) -> None:
    with pytest.raises(ZeroDivisionError):
        async with session_scope("analytics") as session:
            await two_phase.prepare(session, name)
            session.add(Event(name="late"))
            await session.flush()
            raise ZeroDivisionError

    assert await stored() == (0, 1)


async def test_sqlalchemy_sends_the_same_through_asyncpg(two_phase: Any) -> None:
    statements = []

    def note(*arguments: Any) -> None:
        statements.append(arguments[2].partition("'")[0].strip())

    engines: Any = {User: get_engine(), Event: get_engine("analytics")}
    for engine in engines.values():
        event.listen(engine.sync_engine, "before_cursor_execute", note)
    async with AsyncSession(binds=engines, twophase=True) as session:
        session.add_all([new_user(), Event(name="signed up")])
        await session.commit()

    said = [statement for statement in statements if "PREPARE" in statement]
    assert said == ["PREPARE TRANSACTION"] * 2 + ["COMMIT PREPARED"] * 2
    assert await stored() == (1, 1)
