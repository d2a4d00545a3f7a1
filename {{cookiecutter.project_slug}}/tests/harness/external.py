"""A server that somebody else runs, at TEST_DATABASE_URL, on which nothing may be left."""

import asyncio
import re
import secrets
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress

import asyncpg
from sqlalchemy import URL, make_url

from app.core.database.url import refuse_unusable_driver, resolve_async_url
from tests.harness.connections import connect, quoted
from tests.harness.server import FailedError, Server, first_line

SUFFIX = "_test"  # of every database that tests may touch

Refused = (asyncpg.PostgresError, asyncpg.InterfaceError, OSError)


@contextmanager
def external(text: str) -> Iterator[Server]:
    """Use the server at this URL; `remove_all` is for when the run has ended."""
    try:
        refuse_unusable_driver(resolve_async_url(text))
    except ValueError as error:
        raise FailedError(f"TEST_DATABASE_URL: {error}") from error
    url = make_url(text)
    if url.get_backend_name() not in {"postgresql", "postgres"}:
        raise FailedError(f"TEST_DATABASE_URL: {url.drivername!r} is not PostgreSQL")
    database = url.database or ""
    if not database.endswith(SUFFIX):
        # A URL that is wrongly quoted has half a password in the name.
        name = f"the database {database!r}" if database.isidentifier() else "no database"
        raise FailedError(
            f"TEST_DATABASE_URL names {name}, and tests may only touch what is theirs: "
            f"name one that ends in {SUFFIX}, whether it exists or not"
        )
    stem = re.sub(r"\W", "", database.removesuffix(SUFFIX), flags=re.ASCII)[:12]
    yield Server(
        url=asyncio.run(_reachable(url)),
        prefix=f"{stem}_{secrets.token_hex(4)}",
        name="at TEST_DATABASE_URL",
        is_borrowed=True,
    )


async def remove_all(server: Server, linger: float) -> None:
    """Drop what the run has made, and for some seconds what workers of a killed one still make."""
    deadline = time.monotonic() + linger
    pattern = server.prefix.replace("_", r"\_") + r"\_%"
    connection = await connect(server.url)
    while True:
        names = "SELECT datname FROM pg_database WHERE datname LIKE $1"
        for (name,) in await connection.fetch(names, pattern):
            with suppress(asyncpg.PostgresError):  # the others go all the same
                await connection.execute(f"DROP DATABASE IF EXISTS {quoted(name)} WITH (FORCE)")
        roles = "SELECT rolname FROM pg_roles WHERE rolname LIKE $1"
        for (name,) in await connection.fetch(roles, pattern):
            with suppress(asyncpg.PostgresError):
                await connection.execute(f"DROP ROLE IF EXISTS {quoted(name)}")
        if time.monotonic() >= deadline:
            break
        await asyncio.sleep(0.5)
    await connection.close()


async def _reachable(url: URL) -> URL:
    """Return the URL of a database that can be connected to, as somebody who may create others."""
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
            "ALTER USER … CREATEDB lets it"
        )
    return url
