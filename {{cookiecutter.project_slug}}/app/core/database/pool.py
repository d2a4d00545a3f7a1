"""A connection pool that serves waiting sessions in the order of their arrival."""

import asyncio
from typing import Any

from sqlalchemy import exc
from sqlalchemy.pool import AsyncAdaptedQueuePool, ConnectionPoolEntry, PoolProxiedConnection
from sqlalchemy.util import await_  # docs/private-apis.md
from sqlalchemy.util.queue import AsyncAdaptedQueue, Empty  # docs/private-apis.md


class FairQueue(AsyncAdaptedQueue[ConnectionPoolEntry]):
    """A queue that hands a returned connection to the session that has waited longest.

    SQLAlchemy's queue wakes that session and leaves the connection in the queue. A session that
    arrives in between takes it, and the other one waits again, behind all others. Under load some
    sessions wait until `pool_timeout` has passed.
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
        return await_(self._wait(timeout))

    async def _wait(self, seconds: float | None) -> ConnectionPoolEntry:
        waiter = asyncio.Future[ConnectionPoolEntry]()
        self._waiting[waiter] = None
        try:
            async with asyncio.timeout(seconds):
                return await waiter
        except BaseException as error:
            self._waiting.pop(waiter, None)
            if waiter.done() and not waiter.cancelled():  # it arrived too late: pass it on
                self.put_nowait(waiter.result())
            if isinstance(error, TimeoutError):
                raise Empty from None
            raise


class FairPool(AsyncAdaptedQueuePool):
    """SQLAlchemy's pool with a `FairQueue`. `waiting` and `limit` may be read in any thread."""

    _queue_class = FairQueue  # docs/private-apis.md
    _pool: FairQueue

    def __init__(self, creator: Any, pool_size: int, max_overflow: int, **options: Any) -> None:
        super().__init__(creator, pool_size, max_overflow, **options)
        self.limit = pool_size + max_overflow  # open connections

    def connect(self) -> PoolProxiedConnection:
        try:
            return super().connect()
        except exc.TimeoutError as error:
            error.add_note(f"database: {self.logging_name}")
            raise

    @property
    def waiting(self) -> int:
        """The number of sessions that wait for a connection."""
        return self._pool.waiting
