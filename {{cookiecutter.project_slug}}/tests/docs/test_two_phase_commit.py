"""The two-phase commit of docs/databases.md."""

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
from tests.conformance.support import create_tables
from tests.docs.conftest import Load
from tests.inspection import fetch
from tests.support import new_user

pytestmark = pytest.mark.postgresql


async def prepared() -> list[str]:
    """Return the names of the prepared transactions of the analytics database."""
    names = text("SELECT gid FROM pg_prepared_xacts WHERE database = current_database()")
    async with session_scope("analytics") as session:
        return list(await session.scalars(names))


async def stored() -> tuple[int, int]:
    """Return the number of users and of events."""
    async with session_scope() as primary, session_scope("analytics") as analytics:
        return (
            await primary.scalar(select(func.count(User.id))) or 0,
            await analytics.scalar(select(func.count(Event.id))) or 0,
        )


@pytest.fixture
async def example(load: Load) -> AsyncGenerator[Any, None]:
    """The example, on any server."""
    two_phase = load("two-phase commit")
    await create_tables(base.PrimaryBase)
    yield two_phase
    for name in await prepared():  # left by a test that failed
        engine = get_engine("analytics").execution_options(isolation_level="AUTOCOMMIT")
        async with engine.connect() as connection:
            await connection.execute(text(f"ROLLBACK PREPARED '{name}'"))


async def allows_prepared_transactions() -> bool:
    [(maximum,)] = await fetch("SHOW max_prepared_transactions")
    return int(maximum) > 0


@pytest.fixture
async def two_phase(example: Any) -> Any:
    """The example, on a server that allows prepared transactions."""
    if not await allows_prepared_transactions():
        pytest.skip("max_prepared_transactions is 0: test_server_without_… tests the error")
    return example


@pytest.fixture
def name() -> str:
    """The name of a prepared transaction, unique on the server."""
    return f"test-{uuid4()}"


async def test_server_without_prepared_transactions_stores_nothing(example: Any, name: str) -> None:
    if await allows_prepared_transactions():
        await example.sign_up(name, new_user())
        assert await prepared() == [name]
        return
    with pytest.raises(DBAPIError, match="prepared transactions are disabled"):
        await example.sign_up(name, new_user())
    assert await stored() == (0, 0)


async def test_prepared_transaction_holds_its_locks_until_it_is_finished(
    two_phase: Any, name: str
) -> None:
    """As after a crash: `finish` was not called, and every connection is closed."""
    await two_phase.sign_up(name, new_user())
    await dispose_engines()

    assert await stored() == (1, 0)
    with pytest.raises(DBAPIError, match="could not obtain lock"):
        async with session_scope("analytics") as session:
            await session.execute(text("LOCK TABLE events IN SHARE MODE NOWAIT"))

    await two_phase.finish(name)
    await two_phase.finish(name)  # as if the job called it too

    assert await stored() == (1, 1)
    assert await prepared() == []


async def test_in_doubt_returns_only_our_own_transactions(two_phase: Any, name: str) -> None:
    ours = f"sign-up-{name}"
    await two_phase.sign_up(ours, new_user())
    await two_phase.sign_up(f"other-{name}", new_user())

    assert await two_phase.in_doubt() == []
    assert await two_phase.in_doubt(seconds=0) == [ours]


async def test_finish_rolls_back_if_the_other_commit_failed(two_phase: Any, name: str) -> None:
    user = new_user()
    async with session_scope() as session:
        session.add(User(name="Ada", email=user.email))
    with pytest.raises(IntegrityError):
        await two_phase.sign_up(name, user)
    assert await prepared() == [name]

    await two_phase.finish(name)

    assert await stored() == (1, 0)
    assert await prepared() == []


async def test_commit_after_a_decision_to_roll_back_fails(two_phase: Any, name: str) -> None:
    async with session_scope() as session:
        session.add(two_phase.Decision(name=name, commits=False))

    with pytest.raises(IntegrityError):
        await two_phase.sign_up(name, new_user())
    await two_phase.finish(name)

    assert await stored() == (0, 0)
    assert await prepared() == []


async def test_prepare_raises_after_a_swallowed_error(two_phase: Any, name: str) -> None:
    with pytest.raises(TransactionFailedError):
        async with session_scope("analytics") as session:
            session.add(Event(name="signed up"))
            await session.flush()
            with suppress(DBAPIError):
                await session.execute(text("SELECT 1 / 0"))
            await two_phase.prepare(session, name)

    assert await prepared() == []


async def test_statement_after_prepare_is_stored_at_once(two_phase: Any, name: str) -> None:
    with pytest.raises(ZeroDivisionError):
        async with session_scope("analytics") as session:
            await two_phase.prepare(session, name)
            session.add(Event(name="late"))
            await session.flush()
            raise ZeroDivisionError

    assert await stored() == (0, 1)


async def test_sqlalchemy_twophase_sends_the_same_statements(two_phase: Any) -> None:
    statements = []

    def record(*arguments: Any) -> None:
        statements.append(arguments[2].partition("'")[0].strip())

    engines: Any = {User: get_engine(), Event: get_engine("analytics")}
    for engine in engines.values():
        event.listen(engine.sync_engine, "before_cursor_execute", record)
    async with AsyncSession(binds=engines, twophase=True) as session:
        session.add_all([new_user(), Event(name="signed up")])
        await session.commit()

    two_phase_statements = [statement for statement in statements if "PREPARE" in statement]
    assert two_phase_statements == ["PREPARE TRANSACTION"] * 2 + ["COMMIT PREPARED"] * 2
    assert await stored() == (1, 1)
