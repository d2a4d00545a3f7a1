"""Load: wrk against a server, and what that costs the server."""

import itertools
import json
import os
import shutil
import subprocess
from typing import NamedTuple

from benchmarks.environment import ROOT, USERS, MissingError, user_id, variables
from benchmarks.processes import OTHERS, Serving, ended, started

TIMEOUT = 5  # seconds, after which an answer is an error

OPERATIONS = {
    "get": "GET /users/{id}",
    "list": "GET /users?limit=50",
    "post": "POST /users",
}

SECONDS_BEFORE_STALLED = 2.0

_runs = itertools.count(1)


class Result(NamedTuple):
    requests_per_second: float
    cpu_seconds_per_request: float
    p50: float  # seconds
    p99: float
    requests: int
    errors: int
    stalled: bool  # afterwards it answered nobody


def refuse_poor_machine() -> None:
    """Raise `MissingError` where nothing can be measured."""
    if shutil.which("wrk") is None:
        raise MissingError("wrk is not installed: it is the client of these benchmarks")
    refuse_single_core()


def refuse_single_core() -> None:
    """Raise `MissingError` where what is measured would share its core."""
    if not OTHERS:
        raise MissingError("there is one core only: what is measured needs one of its own")


def load(server: Serving, operation: str, connections: int, seconds: float) -> Result:
    """Ask for one thing over and over, on so many connections at once."""
    command = [
        "wrk",
        f"-c{connections}",
        "-t1",
        f"-d{max(1, round(seconds))}s",
        f"--timeout={TIMEOUT}s",
        f"--script={ROOT}/benchmarks/requests.lua",
        f"http://127.0.0.1:{server.port}",
        "--",
        operation,
        str(USERS),
        f"{os.getpid()}{next(_runs):05}",
    ]
    before = server.cpu_seconds()
    with ended(started(command, OTHERS, env=variables(), folder=ROOT)) as wrk:
        output, _ = wrk.communicate()
    used = server.cpu_seconds() - before
    if wrk.returncode:
        raise subprocess.CalledProcessError(wrk.returncode, command)
    counted = json.loads(output.splitlines()[-1])
    answered = counted["requests"]
    return Result(
        requests_per_second=(answered - counted["not_2xx"]) / counted["seconds"],
        cpu_seconds_per_request=used / max(1, answered),
        p50=counted["p50"],
        p99=counted["p99"],
        requests=answered,
        errors=counted["not_2xx"] + counted["socket_errors"] + counted["timeouts"],
        stalled=_is_stalled(server),
    )


def _is_stalled(server: Serving) -> bool:
    try:
        server.get(f"/users/{user_id(1)}", timeout=SECONDS_BEFORE_STALLED)
    except TimeoutError:
        return True
    return False
