"""Engines and sessions: the public interface of `core/database`, and the only commit of the service.

    get_session()      a FastAPI dependency: one session and one transaction for each request
    session_scope()    the same lifecycle for jobs, scripts, streams and tests
    get_engine()       the engine that these sessions use, created on first use
    prepared()         a statement that is compiled once and executes faster on PostgreSQL
    dispose_engines()  closes the connections of this event loop; the next session opens new ones

A session commits when the route, or the `async with` block, ends without an exception, and rolls
back otherwise. Databases are independent: no transaction spans two of them.
"""

from collections.abc import AsyncGenerator, Callable
from contextlib import AbstractAsyncContextManager, AsyncExitStack, asynccontextmanager
from functools import partial
from typing import Any

from sqlalchemy.ext.asyncio import AsyncEngine, AsyncSession
from starlette.requests import HTTPConnection

from app.core.config import DEFAULT_DATABASE, DatabaseSettings, get_database
from app.core.database.errors import (
    CommitOutcomeUnknownError,
    ConfigurationError,
    DatabaseNotFoundError,
    TransactionFailedError,
)
from app.core.database.registry import Database, dispose_databases, find_database
from app.core.database.session import LazySession, roll_back_and_close
from app.core.database.statement import prepared
from app.core.database.url import resolve_async_url

__all__ = [
    "CommitOutcomeUnknownError",
    "ConfigurationError",
    "DatabaseNotFoundError",
    "TransactionFailedError",
    "database_name",
    "dispose_engines",
    "get_engine",
    "get_session",
    "prepared",
    "resolve_async_url",
    "session_scope",
]

_dependencies: dict[tuple[str, bool, bool], "SessionDependency"] = {}


def get_session(
    database: str | None = None, *, dev: bool = False, read_only: bool = False
) -> Callable[[], AsyncGenerator[AsyncSession, None]]:
    """Return a dependency that yields a session and commits it when the route has returned.

    Use it as `Depends(get_session(), scope="function")`, as the aliases in `dependencies.py` do: FastAPI
    shares a session between dependencies of the same scope. It commits before the response is sent, so
    a commit that fails becomes an error response. The same arguments return the same object, so two
    aliases with the same scope share one session within a request, and
    `app.dependency_overrides[get_session()]` replaces all of them.

    Args:
        database: the name of a database in the settings. None is the default database.
        dev: use DEV_DATABASE_URL.
        read_only: use READ_DATABASE_URL if it is set. The database refuses every write. Do not rely
            on commit events: on PostgreSQL such a session usually commits nothing.

    Raises (when the dependency runs, not here):
        DatabaseNotFoundError: no database has this name. For routes, the start-up raises it.
        ConfigurationError: a setting is missing or wrong, for example DEV_DATABASE_URL.
    """
    key = (DEFAULT_DATABASE if database is None else database, dev, read_only)
    return _dependencies.setdefault(key, SessionDependency(*key))


def session_scope(
    database: str | DatabaseSettings | None = None, *, dev: bool = False, read_only: bool = False
) -> AbstractAsyncContextManager[AsyncSession]:
    """Return a context manager that yields a session with the lifecycle of `get_session`.

    Use `async with session_scope() as session:` outside of requests, and in code that runs after
    the response: streams and background tasks. Arguments and errors are those of `get_session`.
    For a database that is not in the settings, pass `get_database().for_url(url)`.
    """
    return _scope(database, dev, read_only)


def get_engine(
    database: str | DatabaseSettings | None = None, *, dev: bool = False, read_only: bool = False
) -> AsyncEngine:
    """Return the engine that `session_scope` with these arguments uses in the running event loop.

    Arguments and errors are those of `get_session`. Outside of an event loop, use the engine only to
    read its URL, dialect or pool: connections work only in the event loop that opens them.
    """
    return _find(database, dev, read_only).engine


async def dispose_engines(database: str | DatabaseSettings | None = None) -> None:
    """Close the connections of the running event loop: pooled ones now, others at their return.

    With a database, only the connections to its URLs, also those of another name with the same URL.
    Engines of another running event loop are not touched. Safe to call at any time, and repeatedly.
    """
    await dispose_databases(None if database is None else _settings(database))


def database_name(dependency: object) -> str | None:
    """Return the name of the database that a `get_session` dependency uses, None for any other."""
    return dependency.database if isinstance(dependency, SessionDependency) else None


class SessionDependency:
    """The dependency that `get_session` returns.

    FastAPI reads the signature of `__wrapped__`, calls this object with the request, and awaits the
    session. Called without arguments, this object returns an async generator, for other code. FastAPI
    would take a sixth of the time of a GET to run it. See docs/private-apis.md.
    """

    def __init__(self, database: str, dev: bool, read_only: bool) -> None:
        self.database = database

        async def open_in_request(request: HTTPConnection) -> AsyncSession:
            return _open(request.scope["fastapi_function_astack"], database, dev, read_only)

        self.__wrapped__ = open_in_request
        self._generator = partial(_session, database, dev, read_only)

    def __call__(self, request: HTTPConnection | None = None) -> Any:
        return self.__wrapped__(request) if request else self._generator()


async def _session(
    database: str | DatabaseSettings | None, dev: bool, read_only: bool
) -> AsyncGenerator[AsyncSession, None]:
    async with AsyncExitStack() as stack:
        yield _open(stack, database, dev, read_only)


_scope = asynccontextmanager(_session)


def _open(
    stack: AsyncExitStack, database: str | DatabaseSettings | None, dev: bool, read_only: bool
) -> AsyncSession:
    """Return a new session that ends with the stack."""
    session = _find(database, dev, read_only).sessions()
    stack.push_async_exit(partial(_end, session))
    return session


async def _end(session: LazySession, _: object, error: BaseException | None, __: object) -> None:
    """The end of every session: commit it if there is no error, and close it."""
    try:
        if error is None and session.needs_round_trip():  # otherwise it is unused, or in AUTOCOMMIT
            await session.commit_at_end()
    finally:
        await roll_back_and_close(session)


def _find(database: str | DatabaseSettings | None, dev: bool, read_only: bool) -> Database:
    return find_database(_settings(database), dev=dev, read_only=read_only)


def _settings(database: str | DatabaseSettings | None) -> DatabaseSettings:
    return database if isinstance(database, DatabaseSettings) else get_database(database)
