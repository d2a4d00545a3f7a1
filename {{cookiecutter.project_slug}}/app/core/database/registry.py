"""Which engines there are: one for each URL in each event loop, until they are disposed of."""

import asyncio
from collections.abc import AsyncGenerator
from contextlib import suppress
from threading import Lock
from typing import NamedTuple, cast

from sqlalchemy import URL
from sqlalchemy.ext.asyncio import AsyncEngine, AsyncSession, async_sessionmaker

from app.core.database import sqlite
from app.core.database.engine import dispose, make_engine, make_probe_engine
from app.core.database.pool import FairPool
from app.core.database.session import TrackedSession
from app.core.database.settings import DatabaseSettings


class Database(NamedTuple):
    """An engine and the one session factory on it."""

    engine: AsyncEngine
    sessions: async_sessionmaker[AsyncSession]


Loop = asyncio.AbstractEventLoop | None  # None: outside of any, where an engine may be looked at


class Databases:
    """The databases of an event loop: a connection works only in the loop that opened it."""

    def __init__(self) -> None:
        # The key is SQLAlchemy's URL and not a string: it compares the password, its repr hides it.
        self.by_url: dict[tuple[URL, bool], Database] = {}
        # To compare a URL is to write it out, so sessions ask by the identity of their settings,
        # which the second of each pair keeps alive.
        self.by_settings: dict[tuple[int, bool, bool], tuple[Database, DatabaseSettings]] = {}
        self.probes: dict[URL, AsyncEngine] = {}

    def add(self, settings: DatabaseSettings, dev: bool, read_only: bool) -> Database:
        url = settings.url(dev=dev, read_only=read_only)
        database = self._of_url(url, settings, read_only=read_only)
        # Settings take the place of those that say the same, and who makes them anew for each session
        # fills no memory.
        self.by_settings = {
            key: found
            for key, found in self.by_settings.items()
            if found[1] != settings or key[1:] != (dev, read_only)
        }
        self.by_settings[id(settings), dev, read_only] = (database, settings)
        return database

    def remove(self, settings: DatabaseSettings) -> list[AsyncEngine]:
        """Forget the engines of these settings' URLs, whoever shares them, and return them."""
        urls = settings.urls()
        removed = [self.by_url.pop(key) for key in [*self.by_url] if key[0] in urls]
        self.by_settings = {
            key: found for key, found in self.by_settings.items() if found[0] not in removed
        }
        probes = [self.probes.pop(url) for url in urls & self.probes.keys()]
        return [*probes, *(database.engine for database in removed)]

    def probe(self, settings: DatabaseSettings) -> AsyncEngine:
        url = settings.url()
        if sqlite.is_in_memory(url):
            return self._of_url(url, settings, read_only=False).engine
        if url not in self.probes:
            self.probes[url] = make_probe_engine(settings)
        return self.probes[url]

    def engines(self) -> list[AsyncEngine]:
        return [*self.probes.values(), *(database.engine for database in self.by_url.values())]

    def _of_url(self, url: URL, settings: DatabaseSettings, *, read_only: bool) -> Database:
        if (url, read_only) not in self.by_url:
            engine = self._make_engine(url, settings, read_only=read_only)
            self.by_url[url, read_only] = Database(
                engine,
                async_sessionmaker(
                    engine,
                    sync_session_class=TrackedSession,
                    expire_on_commit=False,
                    close_resets_only=False,
                ),
            )
        return self.by_url[url, read_only]

    def _make_engine(self, url: URL, settings: DatabaseSettings, *, read_only: bool) -> AsyncEngine:
        if read_only and sqlite.is_in_memory(url):  # there is nothing to read on another connection
            return sqlite.read_only_view(self._of_url(url, settings, read_only=False).engine)
        return make_engine(url, settings, read_only=read_only)


_databases: dict[Loop, Databases] = {}
_closers: dict[asyncio.AbstractEventLoop, AsyncGenerator[None, None]] = {}
_lock = Lock()


def find_database(settings: DatabaseSettings, *, dev: bool, read_only: bool) -> Database:
    """Return the database of these settings in the running event loop; the first call makes it."""
    loop = _running_loop()
    if of_loop := _databases.get(loop):
        found = of_loop.by_settings.get((id(settings), dev, read_only))
        if found:
            return found[0]
    with _lock:
        return _of(loop).add(settings, dev, read_only)


def find_probe(settings: DatabaseSettings) -> AsyncEngine:
    """Return an engine that waits behind no request, to ask whether the database is there."""
    with _lock:
        return _of(_running_loop()).probe(settings)


def live_pools() -> list[tuple[str, bool, FairPool]]:
    """Return the pools of all event loops, each with the name of its database and whether it only reads.

    May be called in any thread.
    """
    with _lock:
        known = {
            id(found.engine.pool): (settings.name, read_only, cast("FairPool", found.engine.pool))
            for of_loop in _databases.values()
            for (_, _, read_only), (found, settings) in of_loop.by_settings.items()
        }
    return list(known.values())


async def dispose_databases(settings: DatabaseSettings | None = None) -> None:
    """Dispose of the engines of the running event loop, and of those that were made outside of any.

    With settings, only of those to their URLs.
    """
    here = asyncio.get_running_loop()
    with _lock:
        if settings is None:
            mine = [_databases.pop(loop, Databases()) for loop in (here, None)]
            engines = [engine for of_loop in mine for engine in of_loop.engines()]
        else:
            mine = [_databases[loop] for loop in (here, None) if loop in _databases]
            engines = [engine for of_loop in mine for engine in of_loop.remove(settings)]
    # Nobody else knows them any more, and whoever waits for this may be cancelled.
    await asyncio.shield(_dispose_of(engines))


async def _dispose_of(engines: list[AsyncEngine]) -> None:
    for engine in engines:
        await dispose(engine)


def _of(loop: Loop) -> Databases:
    """Return the databases of a loop; whoever calls holds the lock."""
    if loop is not None and loop not in _closers:
        _forget_closed_loops()
        _closers[loop] = _close_with(loop)
    return _databases.setdefault(loop, Databases())


def _forget_closed_loops() -> None:
    """Let the garbage collector close what nobody else can: a loop was closed by hand."""
    for loop in [loop for loop in _closers if loop.is_closed()]:
        _databases.pop(loop, None)
        _closers.pop(loop, None)


def _running_loop() -> Loop:
    try:
        return asyncio.get_running_loop()
    except RuntimeError:
        return None


def _close_with(loop: asyncio.AbstractEventLoop) -> AsyncGenerator[None, None]:
    """Close the connections of a script that forgot to, when its loop ends.

    The last thing that `asyncio.run` does in a loop is to close the asynchronous generators that were
    begun there. So here one is begun, by hand as this is no coroutine, and what it does is to wait
    for that.
    """

    async def wait() -> AsyncGenerator[None, None]:
        try:
            yield
        finally:
            await dispose_databases()

    generator = wait()
    with suppress(StopIteration):  # with which a step ends that has nothing to wait for
        generator.asend(None).send(None)
    return generator
