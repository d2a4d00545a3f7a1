"""Whether the service can do its work: each database answers, and has the newest revision."""

import asyncio
import logging
from importlib import import_module
from time import monotonic

from app.core.config import get_database, get_settings
from app.core.database.registry import find_probe
from app.core.db import DatabaseNotFoundError
from app.errors import NotFoundError, NotReadyError

SECONDS_TO_ANSWER = 2.0
SECONDS_OF_USE = 1.0  # of an answer, however many ask

OK = "ok"
PENDING = "migrations pending"
UNREACHABLE = "unreachable"

logger = logging.getLogger(__name__)


class HealthService:
    """What the databases have last said of themselves. There is one of it for an application."""

    def __init__(self) -> None:
        self.is_stopping = False
        self._checks: dict[str, tuple[float, asyncio.Task[str]]] = {}
        self._states: dict[str, str] = {}
        self._late = set[asyncio.Task[str]]()

    def stop(self) -> None:
        self.is_stopping = True

    async def of_all(self) -> dict[str, str]:
        """Return the state of every database.

        Raises:
            NotReadyError: the service is about to stop, or a database cannot be used.
        """
        if self.is_stopping:
            raise NotReadyError("The service is about to stop.")
        return await self._of(*get_settings().databases)

    async def of(self, database: str) -> dict[str, str]:
        """Return the state of one database.

        Raises:
            NotFoundError: there is no such database.
            NotReadyError: it cannot be used.
        """
        try:
            get_database(database)
        except DatabaseNotFoundError as error:
            raise NotFoundError(str(error)) from error
        return await self._of(database)

    async def _of(self, *names: str) -> dict[str, str]:
        states = await asyncio.gather(*map(self._state, names))
        databases = dict(zip(names, states, strict=True))
        bad = [f"{name}: {state}" for name, state in databases.items() if state != OK]
        if bad:
            raise NotReadyError("; ".join(bad), databases=databases)
        return databases

    async def _state(self, name: str) -> str:
        """Return what the database says, which all share who ask within the same second."""
        began, check = self._checks.get(name, (0.0, None))
        if check is None or (check.done() and monotonic() - began > SECONDS_OF_USE):
            check = asyncio.create_task(self._ask(name))
            self._checks[name] = (monotonic(), check)
        return await asyncio.shield(check)  # who asked first may leave first

    async def _ask(self, name: str) -> str:
        """Ask, and wait for the answer as long as a probe does, whatever becomes of the question."""
        question = asyncio.create_task(_state_of(name))
        done, _ = await asyncio.wait({question}, timeout=SECONDS_TO_ANSWER)
        cause: object = f"no answer in {SECONDS_TO_ANSWER:g} seconds"
        state = UNREACHABLE
        if done:
            cause = question.exception()
            state = UNREACHABLE if cause else question.result()
        else:
            question.cancel()
            self._late.add(question)
            question.add_done_callback(self._forget)
        self._log(name, state, cause)
        return state

    def _forget(self, question: asyncio.Task[str]) -> None:
        self._late.discard(question)
        if not question.cancelled():
            question.exception()  # nobody else will look at it

    def _log(self, name: str, state: str, cause: object) -> None:
        if state == self._states.get(name, OK):
            return
        self._states[name] = state
        if state == OK:
            logger.info("The database %r can be used again.", name)
        else:
            cause = getattr(cause, "orig", None) or cause
            logger.warning("The database %r cannot be used: %s (%s)", name, state, cause)


async def _state_of(name: str) -> str:
    # Alembic is a fifth of all that the service would import, and needed here only.
    migrations = await asyncio.to_thread(import_module, "app.migrations")
    async with find_probe(get_database(name)).connect() as connection:
        current = await connection.run_sync(migrations.current_heads)
    is_behind = await asyncio.to_thread(migrations.is_behind, name, current)
    return PENDING if is_behind else OK
