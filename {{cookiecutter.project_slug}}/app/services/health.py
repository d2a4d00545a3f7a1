"""Health of the service: each database responds, and has the newest revision."""

import asyncio
import logging
from importlib import import_module
from time import monotonic

from app.core.config import get_database, get_settings
from app.core.database.registry import find_probe
from app.core.db import DatabaseNotFoundError
from app.errors import NotFoundError, NotReadyError

CHECK_TIMEOUT = 2.0  # seconds
CACHE_SECONDS = 1.0  # for which concurrent and later probes share one check

OK = "ok"
PENDING = "migrations pending"
UNREACHABLE = "unreachable"

logger = logging.getLogger(__name__)


class HealthService:
    """Checks the databases, at most once a second each. An application has one instance."""

    def __init__(self) -> None:
        self.is_stopping = False
        self._checks: dict[str, tuple[float, asyncio.Task[str]]] = {}
        self._logged: dict[str, str] = {}
        self._seconds: dict[str, float] = {}  # that the last check took, 0 if it failed

    def stop(self) -> None:
        """Make `check_all` fail from now on."""
        self.is_stopping = True

    async def check_all(self) -> dict[str, str]:
        """Return the state of every database.

        Raises:
            NotReadyError: the service is about to stop, or a database cannot be used.
        """
        if self.is_stopping:
            raise NotReadyError("The service is about to stop.")
        return await self._check(*get_settings().databases)

    async def check(self, database: str) -> dict[str, str]:
        """Return the state of one database.

        Raises:
            NotFoundError: no database has this name.
            NotReadyError: it cannot be used.
        """
        try:
            get_database(database)
        except DatabaseNotFoundError as error:
            raise NotFoundError(str(error)) from error
        return await self._check(database)

    async def _check(self, *names: str) -> dict[str, str]:
        states = await asyncio.gather(*map(self._cached_state, names))
        databases = dict(zip(names, states, strict=True))
        bad = [f"{name}: {state}" for name, state in databases.items() if state != OK]
        if bad:
            raise NotReadyError("; ".join(bad), databases=databases)
        return databases

    async def _cached_state(self, name: str) -> str:
        """Return the state of a database, within CHECK_TIMEOUT.

        A check that takes longer continues for the next probe: it may be connecting. On a slow network
        the last state counts until a check takes twice as long as the one before.
        """
        began, check = self._checks.get(name, (0.0, None))
        if check is None or (check.done() and monotonic() - began > CACHE_SECONDS):
            began, check = monotonic(), asyncio.create_task(self._run(name))
            self._checks[name] = began, check
        # A probe that disconnects does not cancel the check that other probes wait for.
        await asyncio.wait({check}, timeout=CHECK_TIMEOUT)
        if check.done():
            return check.result()
        if monotonic() - began < 2 * self._seconds.get(name, 0.0):
            return self._logged.get(name, OK)
        self._log(name, UNREACHABLE, f"no response within {CHECK_TIMEOUT:g} seconds")
        return UNREACHABLE

    async def _run(self, name: str) -> str:
        """Return the state. Connecting takes most round trips, so it limits the time of all."""
        began = monotonic()
        cause: object = ""
        try:
            async with asyncio.timeout(CHECK_TIMEOUT + 4 * get_database(name).connect_timeout):
                state = await _read_state(name)
        except Exception as error:
            state, cause = UNREACHABLE, error if str(error) else type(error).__name__
        self._seconds[name] = 0.0 if state == UNREACHABLE else monotonic() - began
        self._log(name, state, cause)
        return state

    def _log(self, name: str, state: str, cause: object) -> None:
        """Log a state when it changes."""
        if state == self._logged.get(name, OK):
            return
        self._logged[name] = state
        if state == OK:
            logger.info("The database %r can be used again.", name)
        else:
            cause = getattr(cause, "orig", None) or cause
            logger.warning("The database %r cannot be used: %s (%s)", name, state, cause)


async def _read_state(name: str) -> str:
    # Alembic is a fifth of all that the service would import, and only this needs it.
    migrations = await asyncio.to_thread(import_module, "app.migrations")
    async with find_probe(get_database(name)).connect() as connection:
        current = await connection.run_sync(migrations.current_heads)
    is_behind = await asyncio.to_thread(migrations.is_behind, name, current)
    return PENDING if is_behind else OK
