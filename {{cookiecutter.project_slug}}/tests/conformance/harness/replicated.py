"""The process that keeps a PostgreSQL and a streaming replica of it for a test, as keeper.py does.

    python -m tests.conformance.harness.replicated

A line "crash", "stop replica" or "start replica" does as it says. When the input ends, all goes.
"""

import sys
from contextlib import ExitStack

from tests.harness.connections import forget_libpq
from tests.harness.server import UnavailableError, say
from tests.harness.wheel import replica, wheel

SETTINGS = {
    "max_standby_streaming_delay": "0",  # a query in the way of what is replayed is cancelled at once
    "max_wal_senders": "4",
    "synchronous_commit": "local",  # what is committed is sent, and not some time later
    "wal_level": "replica",
}


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
