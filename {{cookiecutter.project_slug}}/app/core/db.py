"""Engines and sessions: who makes them, who ends them, and the only commit of the service.

    get_session()      a dependency: one session and one transaction for a request
    session_scope()    the same life for everything else: jobs, scripts, streams, tests
    get_engine()       the engine under both, made when it is first needed
    dispose_engines()  closes every connection; the next session makes new ones

A session commits when its block ends well and rolls back when it does not. Databases are
independent of each other: no transaction spans two.
"""

import asyncio
import logging
from collections.abc import AsyncGenerator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager, suppress
from functools import partial
from threading import Lock

from sqlalchemy import URL
from sqlalchemy.ext.asyncio import AsyncEngine, AsyncSession, async_sessionmaker

from app.core.config import DEFAULT_DATABASE, get_database
from app.core.engines import dispose, make_engine
from app.core.transactions import WatchedSession
from app.core.urls import resolve_async_url

__all__ = ["dispose_engines", "get_engine", "get_session", "resolve_async_url", "session_scope"]

SessionDependency = Callable[[], AsyncGenerator[AsyncSession, None]]
SessionFactory = async_sessionmaker[AsyncSession]

logger = logging.getLogger(__name__)

_lock = Lock()
_dependencies: dict[tuple[str, bool, bool], SessionDependency] = {}
# A connection works only in the event loop that opened it, so each loop has engines of its own.
_factories: dict[asyncio.AbstractEventLoop | None, dict[tuple[URL, bool], SessionFactory]] = {}
_watchers: dict[asyncio.AbstractEventLoop, AsyncGenerator[None, None]] = {}


def get_session(
    database: str | None = None, *, dev: bool = False, read_only: bool = False
) -> SessionDependency:
    """Return a dependency that yields a session and commits it when the route has returned.

    The same arguments give the same object, so that aliases share a session within a request and
    `app.dependency_overrides[get_session()]` finds its target. Write it with
    `Depends(..., scope="function")`: FastAPI then commits before the answer leaves, and a commit
    that fails is an error answer.

    Args:
        database: the name of a database in the settings; the default one if None.
        dev: use DEV_DATABASE_URL.
        read_only: use READ_DATABASE_URL if there is one; the server refuses every write.

    Raises (when the first session is made, not here):
        DatabaseNotFoundError: no database has this name.
        ConfigurationError: its URL, or the one that `dev` asks for, is not set.
    """
    key = (_name(database), dev, read_only)
    return _dependencies.setdefault(key, partial(_session, *key))


def session_scope(
    database: str | None = None, *, dev: bool = False, read_only: bool = False
) -> AbstractAsyncContextManager[AsyncSession]:
    """Return a context manager around a session that lives as a request's does.

    `async with session_scope() as session:` is for use outside a request, and in what outlives it:
    a stream, a background task. Arguments and errors are those of `get_session`.
    """
    return asynccontextmanager(_session)(_name(database), dev, read_only)


def get_engine(
    database: str | None = None, *, dev: bool = False, read_only: bool = False
) -> AsyncEngine:
    """Return the engine that sessions of these arguments use in the running event loop."""
    engine: AsyncEngine = _factory(_name(database), dev, read_only).kw["bind"]
    return engine


async def dispose_engines() -> None:
    """Close every connection of the running event loop; those in use, when their session ends.

    Engines of another running loop are left to it. May be called at any time and repeatedly.
    """
    here = asyncio.get_running_loop()
    with _lock:
        ended = [loop for loop in _factories if loop is None or loop is here or loop.is_closed()]
        factories = {loop: _factories.pop(loop) for loop in ended}
    for loop, of_loop in factories.items():
        for factory in of_loop.values():
            await dispose(factory.kw["bind"], close=loop is None or loop is here)


async def _session(database: str, dev: bool, read_only: bool) -> AsyncGenerator[AsyncSession, None]:
    """The life of a session, the only one there is."""
    session = _factory(database, dev, read_only)()
    try:
        yield session
        await session.commit()
    finally:
        await _close(session)


async def _close(session: AsyncSession) -> None:
    """Roll back what is not committed and give the connection back, come what may.

    `async with` does so in a task of its own, which no cancellation interrupts. On a connection
    that is dead the rollback fails: the pool drops it, and the error must not replace the one that
    brought us here.
    """
    try:
        async with session:
            pass
    except Exception:
        logger.warning("A session could not roll back; its connection is dropped.", exc_info=True)


def _name(database: str | None) -> str:
    return DEFAULT_DATABASE if database is None else database


def _factory(database: str, dev: bool, read_only: bool) -> SessionFactory:
    settings = get_database(database)
    key = (settings.url(dev=dev, read_only=read_only), read_only)
    with _lock:
        factories = _factories_here()
        if key not in factories:
            factories[key] = async_sessionmaker(
                make_engine(key[0], settings, read_only=read_only),
                sync_session_class=WatchedSession,
                expire_on_commit=False,
                close_resets_only=False,
            )
        return factories[key]


def _factories_here() -> dict[tuple[URL, bool], SessionFactory]:
    try:
        loop = asyncio.get_running_loop()
    except RuntimeError:  # an engine may be looked at outside of any loop
        return _factories.setdefault(None, {})
    if loop not in _watchers:
        _watchers[loop] = _dispose_when_loop_ends(loop)
        with suppress(StopIteration):
            _watchers[loop].asend(None).send(None)
    return _factories.setdefault(loop, {})


async def _dispose_when_loop_ends(
    loop: asyncio.AbstractEventLoop,
) -> AsyncGenerator[None, None]:
    """Close the connections of a script that forgot to.

    The last thing `asyncio.run` does in its loop is to close the generators that were begun in it.
    """
    try:
        yield
    finally:
        await dispose_engines()
        _watchers.pop(loop, None)
