"""How the service stops: who sends it work hears of that before it takes none any more."""

import asyncio
import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from multiprocessing import parent_process
from time import monotonic
from types import FrameType

# A worker hears from who stops the whole group of processes, as systemd does, and from its parent.
SECONDS_TO_HEAR_IT_TWICE = 1.0


@contextmanager
def graceful_shutdown(seconds: float, announce: Callable[[], None]) -> Iterator[None]:
    """Call `announce` on SIGTERM, and let the server know of it after so many seconds.

    Who sends it again does not want to wait. Without a server that listens to the signal, or outside
    of the main thread, nothing changes.
    """
    serve_no_more = signal.getsignal(signal.SIGTERM)
    in_main_thread = threading.current_thread() is threading.main_thread()
    if not callable(serve_no_more) or not in_main_thread:
        yield
        return
    loop = asyncio.get_running_loop()

    heard: list[float] = []

    def stop(number: int, frame: FrameType | None) -> None:
        heard.append(monotonic())
        if len(heard) == 1:
            announce()
            loop.call_soon_threadsafe(loop.call_later, seconds, serve_no_more, number, frame)
        elif parent_process() is None or heard[-1] - heard[0] > SECONDS_TO_HEAR_IT_TWICE:
            serve_no_more(number, frame)

    signal.signal(signal.SIGTERM, stop)
    try:
        yield
    finally:
        if signal.getsignal(signal.SIGTERM) is stop:
            signal.signal(signal.SIGTERM, serve_no_more)
