"""Engines and sessions: who makes them, who ends them, and the only commit of the service.

    get_session()      a dependency: one session and one transaction for a request
    session_scope()    the same life for everything else: jobs, scripts, streams, tests
    get_engine()       the engine under both, made when it is first needed
    dispose_engines()  closes every connection; the next session makes new ones

A session commits when its block ends well and rolls back when it does not. Databases are
independent of each other: no transaction spans two.
"""

import logging
from collections.abc import AsyncGenerator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from functools import partial
from typing import TypeVar, cast

from sqlalchemy.ext.asyncio import AsyncEngine, AsyncSession

from app.core.config import DEFAULT_DATABASE, DatabaseSettings, get_database
from app.core.database.errors import (
    ConfigurationError,
    DatabaseNotFoundError,
    TransactionFailedError,
)
from app.core.database.registry import Database, dispose_databases, find_database
from app.core.database.session import TrackedSession
from app.core.database.url import resolve_async_url

__all__ = [
    "ConfigurationError",
    "DatabaseNotFoundError",
    "TransactionFailedError",
    "dispose_engines",
    "get_engine",
    "get_session",
    "resolve_async_url",
    "session_scope",
]

logger = logging.getLogger(__name__)

SessionDependency = Callable[[], AsyncGenerator[AsyncSession, None]]
Which = TypeVar("Which", bound=str | DatabaseSettings)

_dependencies: dict[tuple[str, bool, bool], SessionDependency] = {}


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
    database: str | DatabaseSettings | None = None, *, dev: bool = False, read_only: bool = False
) -> AbstractAsyncContextManager[AsyncSession]:
    """Return a context manager around a session that lives as a request's does.

    `async with session_scope() as session:` is for use outside a request, and in what outlives it:
    a stream, a background task. Arguments and errors are those of `get_session`. For a database that
    has no name, `database` is its settings, as `DatabaseSettings.for_url` makes them: keep them for the
    next session, which then finds the engine at once.
    """
    return asynccontextmanager(_session)(_name(database), dev, read_only)


def get_engine(
    database: str | DatabaseSettings | None = None, *, dev: bool = False, read_only: bool = False
) -> AsyncEngine:
    """Return the engine that `session_scope` with these arguments uses in the running event loop.

    Outside of any loop it is one to look at: what it opens in a loop works in that loop only.
    """
    return _database(_name(database), dev, read_only).engine


async def dispose_engines(database: str | DatabaseSettings | None = None) -> None:
    """Close every connection of the running event loop; those in use, when their session ends.

    With a database only those to its URLs, which are also those of another name that shares one.
    Engines of another running loop are left to it. May be called at any time and repeatedly.
    """
    await dispose_databases(None if database is None else _settings(database))


async def _session(
    database: str | DatabaseSettings, dev: bool, read_only: bool
) -> AsyncGenerator[AsyncSession, None]:
    """The life of a session, the only one there is."""
    session = _database(database, dev, read_only).sessions()
    try:
        yield session
        if not _tracked(session).needs_no_commit():
            await session.commit()
    finally:
        await _roll_back_and_close(session)


async def _roll_back_and_close(session: AsyncSession) -> None:
    """Roll back what is not committed and give the connection back, come what may.

    Leaving `async with` does both, in a task of its own which no cancellation interrupts. It fails
    on a connection that is dead, or that some task still uses: then the connection is dropped, and
    the error does not replace the one that brought us here.
    """
    if not session.in_transaction() or _tracked(session).needs_no_commit():
        session.sync_session.close()  # there is nothing to wait for
        return
    try:
        async with session:
            pass
    except Exception:
        logger.warning("A session could not roll back; its connection is dropped.", exc_info=True)
        _tracked(session).abandon()


def _tracked(session: AsyncSession) -> TrackedSession:
    return cast("TrackedSession", session.sync_session)


def _name(database: Which | None) -> Which | str:
    return DEFAULT_DATABASE if database is None else database


def _database(database: str | DatabaseSettings, dev: bool, read_only: bool) -> Database:
    return find_database(_settings(database), dev=dev, read_only=read_only)


def _settings(database: str | DatabaseSettings) -> DatabaseSettings:
    return get_database(database) if isinstance(database, str) else database
