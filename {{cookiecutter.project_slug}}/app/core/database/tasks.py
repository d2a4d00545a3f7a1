"""Tasks that finish although their caller is cancelled."""

import asyncio
from collections.abc import Callable, Coroutine
from typing import Any

from anyio import CancelScope

_running: set[asyncio.Task[None]] = set()


def start(function: Callable[[], Coroutine[Any, Any, None]]) -> asyncio.Task[None]:
    """Run the function in a task, with a reference to it: an event loop keeps only weak ones."""
    task = asyncio.get_running_loop().create_task(function())
    _running.add(task)
    task.add_done_callback(_running.discard)
    return task


async def wait_until_done(task: asyncio.Task[None]) -> asyncio.CancelledError | None:
    """Wait for the task even if this task is cancelled; return the cancellation, if there was one.

    AnyIO would cancel a task again at every `await`, and keep the event loop busy. With the shield
    it does so after this function.
    """
    cancelled: asyncio.CancelledError | None = None
    with CancelScope(shield=True):
        while not task.done():
            try:
                await asyncio.wait([task])
            except asyncio.CancelledError as error:
                cancelled = error
    return cancelled
