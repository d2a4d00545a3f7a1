"""The process that runs a PostgreSQL server and a streaming replica for a test; see keeper.py.

    python -m tests.harness.replicated

A line "crash", "stop replica" or "start replica" on the input runs that command. At the end of the
input, the process stops and removes both servers.
"""

import sys
from contextlib import ExitStack

from tests.harness.connections import clear_libpq_environment
from tests.harness.server import UnavailableError, send
from tests.harness.wheel import replica, wheel

SETTINGS = {
    "max_standby_streaming_delay": "0",  # cancel queries that conflict with replay at once
    "max_wal_senders": "4",
    "synchronous_commit": "local",  # flush at commit, so that the replica receives it without delay
    "wal_level": "replica",
}


def main() -> None:
    """Start both servers, print their URLs, and keep them until the test ends."""
    clear_libpq_environment()
    with ExitStack() as stack:
        try:
            primary = stack.enter_context(wheel(**SETTINGS))
            standby = stack.enter_context(replica(primary.url))
        except UnavailableError as error:
            send(error=str(error))
            return
        urls = {"url": primary.url, "replica": standby.url}
        send(**{name: url.render_as_string(hide_password=False) for name, url in urls.items()})
        commands = {
            "crash": primary.crash,
            "stop replica": standby.stop,
            "start replica": standby.start,
        }
        for line in sys.stdin:
            command = commands.get(line.strip())
            if not command:
                break
            command()
            send(done=line.strip())


if __name__ == "__main__":
    main()
