"""An external server at TEST_DATABASE_URL. A run removes everything that it creates there."""

import asyncio
import os
import re
import secrets
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress

import asyncpg
from sqlalchemy import URL, make_url

from app.core.database.url import refuse_unusable, resolve_async_url
from tests.harness.connections import connect, quote_identifier
from tests.harness.server import FailedError, RunningServer, first_line

SUFFIX = "_test"  # tests use only databases whose names end in this

Refused = (asyncpg.PostgresError, asyncpg.InterfaceError, OSError)


def external_url() -> str | None:
    """Return TEST_DATABASE_URL, unless TEST_POSTGRES selects another server."""
    return None if os.environ.get("TEST_POSTGRES") else os.environ.get("TEST_DATABASE_URL")


@contextmanager
def external(text: str) -> Iterator[RunningServer]:
    """Use the server at this URL. Call `remove_all` after the run."""
    try:
        refuse_unusable(resolve_async_url(text))
    except ValueError as error:
        raise FailedError(f"TEST_DATABASE_URL: {error}") from error
    url = make_url(text)
    if url.get_backend_name() not in {"postgresql", "postgres"}:
        raise FailedError(f"TEST_DATABASE_URL: {url.drivername!r} is not PostgreSQL")
    database = url.database or ""
    if not database.endswith(SUFFIX):
        # If the password in the URL is badly quoted, a part of it is in the database name.
        name = f"the database {database!r}" if database.isidentifier() else "no database"
        raise FailedError(
            f"TEST_DATABASE_URL names {name}, and tests use only databases of their own: "
            f"name one that ends in {SUFFIX} (it need not exist)"
        )
    stem = re.sub(r"\W", "", database.removesuffix(SUFFIX), flags=re.ASCII)[:12]
    yield RunningServer(
        url=asyncio.run(_reachable(url)),
        prefix=f"{stem}_{secrets.token_hex(4)}",
        name="at TEST_DATABASE_URL",
        is_external=True,
    )


async def remove_all(server: RunningServer, linger: float) -> None:
    """Drop the databases and roles of the run.

    Repeat for `linger` seconds: the workers of a killed run may still create some.
    """
    deadline = time.monotonic() + linger
    pattern = server.prefix.replace("_", r"\_") + r"\_%"
    connection = await connect(server.url)
    while True:
        names = "SELECT datname FROM pg_database WHERE datname LIKE $1"
        for (name,) in await connection.fetch(names, pattern):
            with suppress(asyncpg.PostgresError):  # continue with the others
                await connection.execute(
                    f"DROP DATABASE IF EXISTS {quote_identifier(name)} WITH (FORCE)"
                )
        roles = "SELECT rolname FROM pg_roles WHERE rolname LIKE $1"
        for (name,) in await connection.fetch(roles, pattern):
            with suppress(asyncpg.PostgresError):
                await connection.execute(f"DROP ROLE IF EXISTS {quote_identifier(name)}")
        if time.monotonic() >= deadline:
            break
        await asyncio.sleep(0.5)
    await connection.close()


async def _reachable(url: URL) -> URL:
    """Return a URL that accepts connections. Fail if its user may not create databases."""
    try:
        try:
            connection = await connect(url)
        except asyncpg.InvalidCatalogNameError:
            url = url.set(database="postgres")
            connection = await connect(url)
        try:
            may_create = await connection.fetchval(
                "SELECT rolcreatedb OR rolsuper FROM pg_roles WHERE rolname = current_user"
            )
        finally:
            await connection.close()
    except Refused as error:
        raise FailedError(f"TEST_DATABASE_URL cannot be used: {first_line(error)}") from error
    if not may_create:
        raise FailedError(
            f"TEST_DATABASE_URL: the user {url.username!r} may not create databases: "
            "run ALTER USER … CREATEDB"
        )
    return url
