"""Waiting that a cancellation does not interrupt."""

import asyncio


async def wait_until_done(task: asyncio.Task[None]) -> asyncio.CancelledError | None:
    """Wait for the task even if this task is cancelled; return the cancellation, if there was one.

    AnyIO cancels a task again at every `await` until the cancelled scope is left.
    """
    cancelled: asyncio.CancelledError | None = None
    while not task.done():
        try:
            await asyncio.wait([task])
        except asyncio.CancelledError as error:
            cancelled = error
    return cancelled
