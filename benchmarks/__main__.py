"""The command line: python -m benchmarks [mode]. README.md says which modes there are."""

import signal
import subprocess
import sys

from benchmarks import (
    behaviours,
    bulk,
    compare,
    export,
    isolated,
    levers,
    pages,
    publish,
    render,
    start,
)
from benchmarks.environment import MissingError

MODES = {
    "compare": compare.run,
    "behaviours": behaviours.run,
    "levers": levers.run,
    "pages": pages.run,
    "bulk": bulk.run,
    "export": export.run,
    "start": start.run,
    "render": render.run,
    "isolation": isolated.run,
    "publish": publish.run,
}


def main(mode: str = "compare", *others: str) -> None:
    """Run a mode; what is missing is one sentence, not a traceback."""
    if mode not in MODES or others:
        sys.exit(f"error: there is no mode {' '.join([mode, *others])!r}: {', '.join(MODES)}")
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))  # as after Ctrl-C, all is stopped
    signal.signal(signal.SIGINT, signal.default_int_handler)  # which a shell's background ignores
    try:
        MODES[mode]()
    except MissingError as error:
        sys.exit(f"error: {error}")
    except subprocess.CalledProcessError as error:
        sys.exit(f"error: {error}: {error.stderr or error.output or ''}")
    except KeyboardInterrupt:
        sys.exit(130)


if __name__ == "__main__":
    main(*sys.argv[1:])
