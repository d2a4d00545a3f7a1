"""Starts and stops processes on chosen cores, and measures their CPU time and memory."""

import ctypes
import http.client
import os
import signal
import socket
import subprocess
import time
from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any, NamedTuple

CORES = sorted(os.sched_getaffinity(0))
SERVER_CORES = set(CORES[:1])  # for the measured server alone
OTHER_CORES = set(CORES[1:])  # for PostgreSQL and the clients

SECONDS_TO_RESPOND = 30.0
SECONDS_TO_END = 15.0

Command = Sequence[str | Path]

PR_SET_PDEATHSIG = 1  # https://man7.org/linux/man-pages/man2/PR_SET_PDEATHSIG.2const.html
_libc = ctypes.CDLL(None)


def started(
    command: Command,
    cores: Collection[int],
    *,
    env: dict[str, str],
    folder: Path,
    log: IO[Any] | None = None,
) -> subprocess.Popen[str]:
    """Start a process on these cores.

    It ends with this process, even if this one is killed: with a log, by a signal; without one, because
    its standard input is closed.
    """

    def prepare() -> None:
        os.sched_setaffinity(0, cores)
        if log:
            _libc.prctl(PR_SET_PDEATHSIG, signal.SIGTERM)

    return subprocess.Popen(
        command,
        cwd=folder,
        env=env,
        preexec_fn=prepare,  # noqa: PLW1509, this process has no other threads
        start_new_session=True,  # Ctrl-C reaches only this process, which stops the other
        stdin=subprocess.DEVNULL if log else subprocess.PIPE,
        stdout=log or subprocess.PIPE,
        stderr=log,
        text=True,
    )


@contextmanager
def ended(process: subprocess.Popen[str]) -> Iterator[subprocess.Popen[str]]:
    """Stop the process at the end of the block."""
    try:
        yield process
    finally:
        process.terminate()
        try:
            process.wait(SECONDS_TO_END)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)  # its worker processes, too
            process.wait()
        for pipe in (process.stdin, process.stdout):
            if pipe:
                pipe.close()


class Serving(NamedTuple):
    port: int
    process: subprocess.Popen[str]

    def get(self, path: str, *, timeout: float = SECONDS_TO_RESPOND) -> tuple[int, bytes]:
        return self.request("GET", path, timeout=timeout)

    def request(
        self,
        method: str,
        path: str,
        body: bytes | None = None,
        *,
        timeout: float = SECONDS_TO_RESPOND,
    ) -> tuple[int, bytes]:
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=timeout)
        try:
            connection.request(method, path, body, {"Content-Type": "application/json"})
            response = connection.getresponse()
            return response.status, response.read()
        finally:
            connection.close()

    def cpu_seconds(self) -> float:
        """Return the CPU time of the process and its children, user and system."""
        return sum(map(_cpu_seconds, _family(self.process.pid)))

    def memory(self, figure: str) -> int:
        """Return a figure of /proc/<pid>/status, such as VmRSS, in KiB: of the process and its children."""
        return sum(_memory(pid, figure) for pid in _family(self.process.pid))


@contextmanager
def serving(
    command: Command,
    *,
    env: dict[str, str],
    folder: Path,
    log: Path,
    cores: Collection[int] = SERVER_CORES,
) -> Iterator[Serving]:
    """Run a server, by default on its own core. Yield it when it accepts connections.

    Raises:
        RuntimeError: it has exited, or it does not respond.
    """
    port = free_port()
    with log.open("w") as output:
        process = started(
            [*command, "--port", str(port)], cores, env=env, folder=folder, log=output
        )
    with ended(process):
        server = Serving(port, process)
        wait_until_it_listens(server)
        yield server


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as free:
        port: int = free.getsockname()[1]
        return port


def wait_until_it_listens(server: Serving) -> None:
    deadline = time.monotonic() + SECONDS_TO_RESPOND
    while True:
        try:
            socket.create_connection(("127.0.0.1", server.port)).close()
        except ConnectionRefusedError:
            if server.process.poll() is not None:
                raise RuntimeError("the server exited before it accepted connections") from None
            if time.monotonic() > deadline:
                raise RuntimeError(
                    f"the server accepts no connections after {SECONDS_TO_RESPOND:.0f} s"
                ) from None
            time.sleep(0.002)
        else:
            return


def _family(pid: int) -> Iterator[int]:
    yield pid
    for children in Path(f"/proc/{pid}/task").glob("*/children"):
        for child in children.read_text().split():
            yield from _family(int(child))


def _memory(pid: int, figure: str) -> int:
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith(f"{figure}:"):
            return int(line.split()[1])
    raise RuntimeError(f"the process has no {figure}")


def _cpu_seconds(pid: int) -> float:
    """Return the CPU time of all threads of a process. /proc/<pid>/stat only counts ticks.

    https://man7.org/linux/man-pages/man3/clock_getcpuclockid.3.html
    """
    return time.clock_gettime((~pid << 3) | 2)
