"""The command line: python -m benchmarks [mode]. README.md lists the modes."""

import signal
import subprocess
import sys

from benchmarks import (
    behaviours,
    bulk,
    compare,
    export,
    growth,
    isolated,
    pages,
    publish,
    render,
    start,
    variants,
)
from benchmarks.environment import MissingError

MODES = {
    "compare": compare.run,
    "behaviours": behaviours.run,
    "variants": variants.run,
    "pages": pages.run,
    "bulk": bulk.run,
    "export": export.run,
    "growth": growth.run,
    "start": start.run,
    "render": render.run,
    "isolation": isolated.run,
    "publish": publish.run,
}


def main(mode: str = "compare", *others: str) -> None:
    """Run a mode. Print a missing requirement as one sentence, without a traceback."""
    if mode not in MODES or others:
        sys.exit(
            f"error: unknown mode {' '.join([mode, *others])!r}; choose from {', '.join(MODES)}"
        )
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))  # stops all processes, as Ctrl-C does
    signal.signal(signal.SIGINT, signal.default_int_handler)  # a background shell ignores it
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
