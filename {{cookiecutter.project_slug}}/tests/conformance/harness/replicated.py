"""The process that keeps a PostgreSQL and a streaming replica of it for a test, as keeper.py does.

    python -m tests.conformance.harness.replicated

A line "crash", "stop replica" or "start replica" does as it says. When the input ends, all goes.
"""

import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import NamedTuple

from sqlalchemy import URL, make_url

from tests.harness.connections import forget_libpq
from tests.harness.server import UnavailableError, say
from tests.harness.wheel import kill, new_server, wheel

SETTINGS = {
    "max_standby_streaming_delay": "0",  # a query in the way of what is replayed is cancelled at once
    "max_wal_senders": "4",
    "synchronous_commit": "local",  # what is committed is sent, and not some time later
    "wal_level": "replica",
}


class Replica(NamedTuple):
    url: URL
    stop: Callable[[], None]
    start: Callable[[], None]


@contextmanager
def replica(of: URL) -> Iterator[Replica]:
    """Run a streaming replica of such a server, which begins with a backup of it."""
    with new_server() as (server, folder):
        if server.system_user:  # as root, whom the binaries refuse to run for
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
        for lock in folder.glob(".s.PGSQL.*"):  # of the socket, which is among the data
            lock.unlink()
        server.start()
        yield Replica(
            make_url(server.get_uri()), lambda: kill(folder / "postmaster.pid"), server.start
        )


def main() -> None:
    """Start both, say where they are, and keep them until the test has ended."""
    forget_libpq()
    with ExitStack() as stack:
        try:
            primary = stack.enter_context(wheel(**SETTINGS))
            standby = stack.enter_context(replica(primary.url))
        except UnavailableError as error:
            say(error=str(error))
            return
        urls = {"url": primary.url, "replica": standby.url}
        say(**{name: url.render_as_string(hide_password=False) for name, url in urls.items()})
        doing = {
            "crash": primary.crash,
            "stop replica": standby.stop,
            "start replica": standby.start,
        }
        for line in sys.stdin:
            do = doing.get(line.strip())
            if not do:
                break
            do()
            say(done=line.strip())


if __name__ == "__main__":
    main()
