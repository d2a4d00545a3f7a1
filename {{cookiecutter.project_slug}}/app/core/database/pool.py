"""A pool whose connections go to who has waited longest."""

import asyncio

from sqlalchemy.pool import AsyncAdaptedQueuePool, ConnectionPoolEntry
from sqlalchemy.util import await_only
from sqlalchemy.util.queue import AsyncAdaptedQueue, Empty


class FairQueue(AsyncAdaptedQueue[ConnectionPoolEntry]):
    """A queue that hands what comes back to the first who waits.

    SQLAlchemy's puts it down and wakes them: who comes by in the meantime takes it, and who was woken
    waits again behind all others, until under load the pool's time is over for some.
    """

    def __init__(self, maxsize: int = 0, use_lifo: bool = False) -> None:
        super().__init__(maxsize, use_lifo)
        self._waiting: dict[asyncio.Future[ConnectionPoolEntry], None] = {}  # an ordered set

    @property
    def waiting(self) -> int:
        return len(self._waiting)

    def put_nowait(self, item: ConnectionPoolEntry) -> None:
        while self._waiting:
            waiter = next(iter(self._waiting))
            del self._waiting[waiter]
            if not waiter.done():
                waiter.set_result(item)
                return
        super().put_nowait(item)

    def get(self, block: bool = True, timeout: float | None = None) -> ConnectionPoolEntry:
        if not block or not self.empty():
            return self.get_nowait()
        return await_only(self._wait(timeout))

    async def _wait(self, seconds: float | None) -> ConnectionPoolEntry:
        waiter = asyncio.Future[ConnectionPoolEntry]()
        self._waiting[waiter] = None
        try:
            async with asyncio.timeout(seconds):
                return await waiter
        except BaseException as error:
            self._waiting.pop(waiter, None)
            if waiter.done() and not waiter.cancelled():  # it came at the moment of giving up
                self.put_nowait(waiter.result())
            if isinstance(error, TimeoutError):
                raise Empty from None
            raise


class FairPool(AsyncAdaptedQueuePool):
    _queue_class = FairQueue
    _pool: FairQueue

    @property
    def waiting(self) -> int:
        """How many wait for a connection. May be asked for in any thread, as `limit` may."""
        return self._pool.waiting

    @property
    def limit(self) -> int:
        """How many connections may be open."""
        return self.size() + self._max_overflow
