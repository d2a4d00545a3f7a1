"""Random sequences of operations on a session store exactly the rows that were committed.

Hypothesis generates the sequences. It shrinks a failing one to the shortest and prints it.
"""

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass, field

from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncSession, AsyncSessionTransaction

from app.core.db import session_scope
from tests.inspection import checked_out, observer
from tests.support import new_user

STEPS = [
    "add",
    "flush",
    "read",
    "savepoint",
    "release",
    "roll back savepoint",
    "commit",
    "rollback",
]
ENDS = ["return", "raise", "cancel", "cancel in a statement"]


@dataclass
class Model:
    """The expected rows: committed ones, and pending ones for each savepoint."""

    committed: set[str] = field(default_factory=set)
    pending: list[set[str]] = field(default_factory=lambda: [set()])

    def add(self, name: str) -> None:
        self.pending[-1].add(name)

    def savepoint(self) -> None:
        self.pending.append(set())

    def release(self) -> None:
        released = self.pending.pop()
        self.pending[-1] |= released

    def roll_back_savepoint(self) -> None:
        self.pending.pop()

    def commit(self) -> None:
        self.committed = self.committed.union(*self.pending)
        self.rollback()

    def rollback(self) -> None:
        self.pending = [set()]

    def visible(self) -> set[str]:
        return self.committed.union(*self.pending)


class Runner:
    """Runs each step on a session and on the model."""

    def __init__(self, session: AsyncSession, model: Model) -> None:
        self.session = session
        self.model = model
        self.savepoints: list[AsyncSessionTransaction] = []

    async def run(self, step: str, name: str) -> None:
        match step:
            case "add":
                self.session.add(new_user(name))
                self.model.add(name)
            case "flush":
                await self.session.flush()
            case "read":
                assert self.model.visible() == set(await self.session.scalars(NAMES))
            case "savepoint":
                self.savepoints.append(await self.session.begin_nested())
                self.model.savepoint()
            case "release" if self.savepoints:
                await self.savepoints.pop().commit()
                self.model.release()
            case "roll back savepoint" if self.savepoints:
                await self.savepoints.pop().rollback()
                self.model.roll_back_savepoint()
            case "commit":
                await self.session.commit()
                self.model.commit()
                self.savepoints.clear()
            case "rollback":
                await self.session.rollback()
                self.model.rollback()
                self.savepoints.clear()


NAMES = text("SELECT name FROM users")


async def run_steps(model: Model, steps: Sequence[str], end: str) -> None:
    async with session_scope() as session:
        runner = Runner(session, model)
        for number, step in enumerate(steps):
            await runner.run(step, f"user-{number}")
        match end:
            case "raise":
                raise LookupError
            case "cancel":
                cancel_this_task()
                await asyncio.sleep(0)
            case "cancel in a statement":
                cancel_this_task()
                await session.execute(NAMES)
    model.commit()


def cancel_this_task() -> None:
    task = asyncio.current_task()
    assert task
    task.cancel()


# All examples share the databases, so each one first deletes the rows of the previous one.
@settings(
    deadline=None,
    max_examples=50,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
@example(steps=["savepoint", "add", "release", "rollback"], end="return")
@given(steps=st.lists(st.sampled_from(STEPS), max_size=12), end=st.sampled_from(ENDS))
async def test_table_has_exactly_the_committed_rows(
    databases: None, steps: list[str], end: str
) -> None:
    model = Model()

    async with observer() as connection:
        await connection.execute(text("DELETE FROM users"))
        task = asyncio.create_task(run_steps(model, steps, end))
        await asyncio.wait([task])
        stored = {*await connection.scalars(NAMES)}

    expected = {"return": None, "raise": LookupError}.get(end, asyncio.CancelledError)
    assert expected == error_of(task)
    assert not checked_out()
    assert model.committed == stored


def error_of(task: asyncio.Task[None]) -> type[BaseException] | None:
    if task.cancelled():
        return asyncio.CancelledError
    return type(error) if (error := task.exception()) else None
