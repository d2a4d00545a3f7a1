"""Runs wrk against a server, and measures the server's CPU time."""

import itertools
import json
import os
import shutil
import subprocess
from typing import NamedTuple

from benchmarks.environment import ROOT, USERS, MissingError, user_id, variables
from benchmarks.processes import OTHER_CORES, Serving, ended, started

TIMEOUT = 5  # seconds; a later response counts as an error

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
    kib: int  # resident memory after the load
    stalled: bool  # after the load, the server did not respond


def require_wrk_and_two_cores() -> None:
    """Raise `MissingError` if wrk is not installed, or there is only one core."""
    if shutil.which("wrk") is None:
        raise MissingError("wrk is not installed: install it, the benchmarks use it as client")
    require_two_cores()


def require_two_cores() -> None:
    """Raise `MissingError` if the server would share its core with other processes."""
    if not OTHER_CORES:
        raise MissingError("there is only one core: the measured server needs its own core")


def load(
    server: Serving, operation: str, connections: int, seconds: float, timeout: float = TIMEOUT
) -> Result:
    """Repeat one kind of request, or a GET of this path, on this number of connections."""
    command = [
        "wrk",
        f"-c{connections}",
        "-t1",
        f"-d{max(1, round(seconds))}s",
        f"--timeout={timeout:.0f}s",
        f"--script={ROOT}/benchmarks/requests.lua",
        f"http://127.0.0.1:{server.port}",
        "--",
        operation,
        str(USERS),
        f"{os.getpid()}{next(_runs):05}",
    ]
    before = server.cpu_seconds()
    with ended(started(command, OTHER_CORES, env=variables(), folder=ROOT)) as wrk:
        output, _ = wrk.communicate()
    used = server.cpu_seconds() - before
    if wrk.returncode:
        raise subprocess.CalledProcessError(wrk.returncode, command)
    counted = json.loads(output.splitlines()[-1])
    responses = counted["requests"]
    return Result(
        requests_per_second=(responses - counted["not_2xx"]) / counted["seconds"],
        cpu_seconds_per_request=used / max(1, responses),
        p50=counted["p50"],
        p99=counted["p99"],
        requests=responses,
        errors=counted["not_2xx"] + counted["socket_errors"] + counted["timeouts"],
        kib=server.memory("VmRSS"),
        stalled=_is_stalled(server),
    )


def _is_stalled(server: Serving) -> bool:
    try:
        server.get(f"/users/{user_id(1)}", timeout=SECONDS_BEFORE_STALLED)
    except TimeoutError:
        return True
    return False
