"""Graceful shutdown: readiness fails before the server stops accepting requests."""

import asyncio
import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from multiprocessing import parent_process
from time import monotonic
from types import FrameType

# systemd sends SIGTERM to the whole process group, and uvicorn's parent process then sends it to
# each worker again. Within this time a worker takes the second signal for a copy of the first.
DUPLICATE_SIGNAL_SECONDS = 1.0


@contextmanager
def graceful_shutdown(seconds: float, announce: Callable[[], None]) -> Iterator[None]:
    """On SIGTERM call `announce`, and pass the signal on to the server after `seconds`.

    In that time the load balancer sees that readiness fails, while the server still accepts
    requests. A second SIGTERM is passed on at once. Without a server that handles SIGTERM, or
    outside of the main thread, this does nothing.
    """
    stop_server = signal.getsignal(signal.SIGTERM)
    in_main_thread = threading.current_thread() is threading.main_thread()
    if not callable(stop_server) or not in_main_thread:
        yield
        return
    loop = asyncio.get_running_loop()
    received: list[float] = []

    def handle_signal(number: int, frame: FrameType | None) -> None:
        received.append(monotonic())
        if len(received) == 1:
            announce()
            loop.call_soon_threadsafe(loop.call_later, seconds, stop_server, number, frame)
        elif parent_process() is None or received[-1] - received[0] > DUPLICATE_SIGNAL_SECONDS:
            stop_server(number, frame)

    signal.signal(signal.SIGTERM, handle_signal)
    try:
        yield
    finally:
        if signal.getsignal(signal.SIGTERM) is handle_signal:
            signal.signal(signal.SIGTERM, stop_server)
