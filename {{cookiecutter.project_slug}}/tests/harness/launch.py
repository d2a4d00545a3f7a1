"""Starts helper processes that survive a killed test run, so that they can clean up after it."""

import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]

# A process in a session of its own, whose parent has exited, is not killed with the run.
LAUNCH = "import subprocess, sys; subprocess.Popen(sys.argv[1:])"


def launch(*command: str, **variables: str) -> subprocess.Popen[str]:
    """Start such a process with pipes to it. The pipes close when the run ends, even by `kill -9`."""
    path = os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")])
    return subprocess.Popen(
        [sys.executable, "-c", LAUNCH, *command],
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": path, **variables},
        start_new_session=True,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
