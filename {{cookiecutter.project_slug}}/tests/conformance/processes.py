"""Runs several commands in one process: it would spend most of its time on imports."""

import subprocess
import sys
from pathlib import Path

SEPARATOR = "\0"

ALEMBIC = r"""
import shlex, sys
from alembic.config import main

for command in sys.argv[1:]:
    print(end="\0")
    try:
        main(shlex.split(command))
    except SystemExit as ended:
        print("exit code", ended.code)
"""

APP = r"""
import shlex, sys
from app.__main__ import main

for command in sys.argv[1:]:
    print(end="\0")
    sys.argv = ["app", *shlex.split(command)]
    try:
        main()
    except SystemExit as ended:
        print(ended.code)
"""


def run_all(
    program: str, *commands: str, variables: dict[str, str], folder: Path
) -> tuple[list[str], str]:
    """Run commands of ALEMBIC or APP. Return the standard output of each, and the standard error of all.

    An output ends with `exit code` if Alembic fails, and with the exit code or the message of an error of the service.
    """
    ended = subprocess.run(
        [sys.executable, "-c", program, *commands],
        capture_output=True,
        check=False,
        cwd=folder,
        env=variables,
        text=True,
    )
    assert ended.returncode == 0, ended.stdout + ended.stderr
    return ended.stdout.split(SEPARATOR)[1:], ended.stderr
