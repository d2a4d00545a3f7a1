"""The engines of the process: one for each URL, kind and event loop, until they are disposed of.

The kinds are sessions, read-only sessions and probes.
"""

import asyncio
import logging
from collections import defaultdict
from collections.abc import AsyncGenerator, Callable
from contextlib import suppress
from dataclasses import dataclass, field
from functools import partial
from threading import Lock
from typing import cast

from sqlalchemy import URL
from sqlalchemy.ext.asyncio import AsyncEngine

from app.core.database import postgresql, sqlite
from app.core.database.engine import dispose, make_engine, make_probe_engine
from app.core.database.observers import Observers
from app.core.database.pool import FairPool
from app.core.database.session import LazySession
from app.core.database.settings import DatabaseSettings, EngineKey
from app.core.database.sync_session import TrackedSession

logger = logging.getLogger(__name__)


@dataclass(slots=True)
class Database:
    """An engine, its session factory, and the settings that it was created with."""

    engine: AsyncEngine
    sessions: Callable[[], LazySession]
    settings: DatabaseSettings
    ignored: set[str] = field(default_factory=set)  # settings that a warning has named

    def warn_of_ignored(self, settings: DatabaseSettings) -> None:
        """Log, once for each field, the settings that differ from those of the engine."""
        for name in settings.engine_options_unlike(self.settings) - self.ignored:
            self.ignored.add(name)
            logger.warning(
                "%s of the database %r is ignored: the engine for its URL was created for the "
                "database %r with another value. Use the same value for both, or call "
                "dispose_engines() first.",
                *(name.upper(), settings.name, self.settings.name),
            )


Loop = asyncio.AbstractEventLoop | None  # None: outside of an event loop, for inspection only
Databases = dict[EngineKey, Database]

_NO_DATABASES: Databases = {}
_databases: dict[Loop, Databases] = {}
_closers: dict[asyncio.AbstractEventLoop, AsyncGenerator[None, None]] = {}
_lock = Lock()


def find_database(
    settings: DatabaseSettings, *, dev: bool = False, read_only: bool = False
) -> Database:
    """Return the database of these settings in the running event loop; the first call creates it."""
    return _find(settings, settings.key(dev=dev, read_only=read_only))


def find_probe(settings: DatabaseSettings) -> AsyncEngine:
    """Return an engine for readiness probes: its connection is not shared with requests."""
    return _find(settings, settings.key(probe=True)).engine


def live_pools() -> list[tuple[str, bool, FairPool]]:
    """Return the pools of all event loops: the name of the database, read-only or not, the pool.

    Safe to call in any thread. The pools of probes are left out.
    """
    with _lock:
        pools = {
            id(database.engine.pool): (
                database.settings.name,
                key.read_only,
                cast("FairPool", database.engine.pool),
            )
            for databases in _databases.values()
            for key, database in databases.items()
            if not key.probe
        }
    return [*pools.values()]


async def dispose_databases(settings: DatabaseSettings | None = None) -> None:
    """Dispose of the engines of the running event loop, and of those created outside of a loop.

    With settings, only of those for their URLs.
    """
    loops: list[Loop] = [asyncio.get_running_loop(), None]
    with _lock:
        if settings is None:
            found = [_databases.pop(loop, {}) for loop in loops]
            engines = [database.engine for databases in found for database in databases.values()]
        else:
            urls = settings.urls()
            found = [_databases.get(loop, {}) for loop in loops]
            engines = [
                databases.pop(key).engine
                for databases in found
                for key in [*databases]
                if key.url in urls
            ]
    # The engines are no longer registered, so finish even if the caller is cancelled.
    await asyncio.shield(_dispose_all(engines))


async def _dispose_all(engines: list[AsyncEngine]) -> None:
    postgresql.close_together()
    by_url = defaultdict[URL, list[AsyncEngine]](list)
    for engine in engines:
        by_url[engine.url].append(engine)
    errors = await asyncio.gather(*map(_dispose_in_turn, by_url.values()), return_exceptions=True)
    for error in filter(None, errors):
        raise error


async def _dispose_in_turn(engines: list[AsyncEngine]) -> None:
    """Dispose of the engines of one URL, one after the other.

    SQLite removes the write-ahead log with the last connection, but not if two close at once.
    """
    for engine in engines:
        await dispose(engine)


def _find(settings: DatabaseSettings, key: EngineKey) -> Database:
    loop = _running_loop()
    database = _databases.get(loop, _NO_DATABASES).get(key)
    if database is None:
        with _lock:
            database = _find_or_create(_databases_of(loop), key, settings)
    if database.settings is not settings:
        database.warn_of_ignored(settings)
    return database


def _find_or_create(databases: Databases, key: EngineKey, settings: DatabaseSettings) -> Database:
    if key not in databases:
        if sqlite.is_in_memory(key.url) and (key.read_only or key.probe):
            # A SQLite database in memory exists only in one connection.
            shared = _find_or_create(databases, EngineKey(key.url), settings).engine
            engine = shared if key.probe else sqlite.read_only_view(shared)
        elif key.probe:
            engine = make_probe_engine(settings)
        else:
            engine = make_engine(key, settings)
        sessions = partial(
            LazySession,  # an async_sessionmaker would merge these options for each session
            engine,
            compiled={},
            is_observed=Observers(engine.sync_engine).exist,
            sync_session_class=TrackedSession,
            expire_on_commit=False,
            close_resets_only=False,
        )
        databases[key] = Database(engine, sessions, settings)
    return databases[key]


def _databases_of(loop: Loop) -> Databases:
    """Return the databases of an event loop; the caller holds the lock."""
    if loop is not None and loop not in _closers:
        _forget_closed_loops()
        _closers[loop] = _dispose_at_end_of(loop)
    return _databases.setdefault(loop, {})


def _forget_closed_loops() -> None:
    """Remove loops that were closed without `shutdown_asyncgens()`: nothing can close their connections."""
    for loop in [loop for loop in _closers if loop.is_closed()]:
        _databases.pop(loop, None)
        _closers.pop(loop, None)


def _running_loop() -> Loop:
    try:
        return asyncio.get_running_loop()
    except RuntimeError:
        return None


def _dispose_at_end_of(loop: asyncio.AbstractEventLoop) -> AsyncGenerator[None, None]:
    """Close the connections of a script that does not call `dispose_engines()`, when its loop ends.

    `asyncio.run` closes the asynchronous generators of its event loop when it shuts down. This
    starts one that waits for that, with `send(None)`, because this function is not async.
    """

    async def wait() -> AsyncGenerator[None, None]:
        try:
            yield
        finally:
            await dispose_databases()

    generator = wait()
    with suppress(StopIteration):  # the first `yield` is reached
        generator.asend(None).send(None)
    return generator
