"""A connection pool that serves waiting sessions in the order of their arrival."""

import asyncio
from collections import deque
from time import monotonic
from typing import Any

from sqlalchemy import exc
from sqlalchemy.pool import AsyncAdaptedQueuePool, ConnectionPoolEntry, PoolProxiedConnection
from sqlalchemy.util import await_  # docs/private-apis.md
from sqlalchemy.util.queue import AsyncAdaptedQueue, Empty, Full  # docs/private-apis.md


class FairQueue(AsyncAdaptedQueue[ConnectionPoolEntry]):
    """A queue that hands a returned connection to the session that has waited longest.

    SQLAlchemy's queue wakes that session and leaves the connection in the queue. A session that
    arrives in between takes it, and the other one waits again, behind all others. Under load some
    sessions wait until `pool_timeout` has passed.
    """

    def __init__(self, maxsize: int = 0, use_lifo: bool = False) -> None:
        super().__init__(maxsize, use_lifo)
        self._idle = deque[ConnectionPoolEntry]()
        self._waiting: dict[asyncio.Future[ConnectionPoolEntry], None] = {}  # an ordered set

    @property
    def waiting(self) -> int:
        return len(self._waiting)

    @property
    def next(self) -> ConnectionPoolEntry | None:
        """The connection that `get` would return."""
        return self._idle[0] if self._idle else None

    def qsize(self) -> int:
        return len(self._idle)

    def put_nowait(self, item: ConnectionPoolEntry) -> None:
        while self._waiting:
            waiter = next(iter(self._waiting))
            del self._waiting[waiter]
            if not waiter.done():
                waiter.set_result(item)
                return
        if 0 < self.maxsize <= len(self._idle):
            raise Full
        self._idle.append(item)

    def get_nowait(self) -> ConnectionPoolEntry:
        if not self._idle:
            raise Empty
        return self._idle.popleft()

    def get(self, block: bool = True, timeout: float | None = None) -> ConnectionPoolEntry:
        if self._idle or not block:
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
            has_arrived = waiter.done() and not waiter.cancelled()
            if isinstance(error, TimeoutError):
                if has_arrived:  # at the last moment: the next session may be too late as well
                    return waiter.result()
                raise Empty from None
            if has_arrived:
                self.put_nowait(waiter.result())
            raise


class FairPool(AsyncAdaptedQueuePool):
    """SQLAlchemy's pool with a `FairQueue`. `waiting` and `limit` may be read in any thread."""

    _queue_class = FairQueue  # docs/private-apis.md
    _pool: FairQueue

    def __init__(self, creator: Any, pool_size: int, max_overflow: int, **options: Any) -> None:
        super().__init__(creator, pool_size, max_overflow, **options)
        self.own_listeners = 0
        self.limit = pool_size + max_overflow  # open connections

    def connect(self) -> PoolProxiedConnection:
        try:
            return super().connect()
        except exc.TimeoutError as error:
            error.add_note(f"database: {self.logging_name}")
            raise

    def count_listeners(self) -> int:
        """Return the number of listeners for connections that are checked out or returned."""
        return sum(map(len, (self.dispatch.checkout, self.dispatch.reset, self.dispatch.checkin)))

    @property
    def has_other_listeners(self) -> bool:
        """Whether a listener that is not the service's may have to wait for the server."""
        return self.count_listeners() != self.own_listeners

    def has_fresh_connection(self) -> bool:
        """Return whether the next session gets a connection that was used a moment ago, without waiting."""
        record = self._pool.next
        return (
            not self.has_other_listeners
            and record is not None
            and record.info.get("fresh_until", 0.0) > monotonic()
        )

    @property
    def waiting(self) -> int:
        """The number of sessions that wait for a connection."""
        return self._pool.waiting
