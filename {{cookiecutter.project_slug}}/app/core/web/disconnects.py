"""Middleware that cancels a request and its transaction when the client disconnects."""

import asyncio

from anyio.to_thread import current_default_thread_limiter
from starlette.responses import Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

CLIENT_CLOSED_REQUEST = 499  # nginx's status: only other middleware sees it
SECONDS_BEFORE_WATCHING = 0.1  # most requests end earlier, and need no extra task
SECONDS_BETWEEN_CHECKS = 0.05


class DisconnectMiddleware:
    """Cancel a request whose client disconnects before the response starts.

    ASGI servers let such a request continue: a slow statement keeps its connection and its locks
    while the client already retries. A request whose response has started is not cancelled: a
    stream notices the disconnect itself, and a background task must run to its end.
    """

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        client = _WatchedClient(receive, send)
        if not _expects_continue(scope):
            client.watch_soon()
        try:
            await self.app(scope, client.receive, client.send)
        except asyncio.CancelledError:
            if not client.has_cancelled or client.request.uncancel():  # somebody else has, too
                raise
            await Response(status_code=CLIENT_CLOSED_REQUEST)(scope, receive, send)
        finally:
            client.stop_watching()


class _WatchedClient:
    """The `receive` and `send` of a request. A task reads one message ahead to detect a disconnect."""

    _read_ahead: asyncio.Queue[Message | Exception]  # while `_watcher` reads

    def __init__(self, receive: Receive, send: Send) -> None:
        request = asyncio.current_task()
        assert request
        self.request = request
        self.has_cancelled = False
        self._receive = receive
        self._send = send
        self._response_started = False
        self._active_reads = 0
        self._timer: asyncio.TimerHandle | None = None
        self._watcher: asyncio.Task[None] | None = None

    def watch_soon(self) -> None:
        loop = asyncio.get_running_loop()
        self._timer = loop.call_later(SECONDS_BEFORE_WATCHING, self._start_watching)

    def _start_watching(self) -> None:
        if self._active_reads:  # the server allows one reader at a time
            self.watch_soon()
        else:
            self._read_ahead = asyncio.Queue[Message | Exception](maxsize=1)  # bounds the memory
            self._watcher = asyncio.create_task(self._watch())

    def stop_watching(self) -> None:
        for watching in (self._timer, self._watcher):
            if watching:
                watching.cancel()
        self._watcher = None  # a reference cycle: the traceback of its error refers to this object

    async def receive(self) -> Message:
        if self._watcher is None:
            return await self._read()
        message = await self._read_ahead.get()
        if isinstance(message, Exception):
            raise message
        if message["type"] == "http.disconnect":  # every later call returns it again
            self._read_ahead.put_nowait(message)
        return message

    async def _read(self) -> Message:
        self._active_reads += 1
        try:
            return await self._receive()
        finally:
            self._active_reads -= 1
            if self._timer is None:
                self.watch_soon()

    async def send(self, message: Message) -> None:
        self._response_started = True
        await self._send(message)

    async def _watch(self) -> None:
        message: Message = {"type": "http.request"}
        while message["type"] == "http.request":
            try:
                message = await self._receive()
            except Exception as error:  # raised by a middleware around this one, for the app
                await self._read_ahead.put(error)
                return
            if message["type"] == "http.disconnect":
                await self._cancel_request()
            await self._read_ahead.put(message)

    async def _cancel_request(self) -> None:
        """Cancel the request, but not while it waits for a thread: the thread would continue."""
        threads = current_default_thread_limiter()
        while not self._response_started:
            if self.request not in threads.statistics().borrowers:
                self.has_cancelled = True
                self.request.cancel()
                return
            await asyncio.sleep(SECONDS_BETWEEN_CHECKS)


def _expects_continue(scope: Scope) -> bool:
    """Return whether the client sends its body only after `100 Continue`, which a read triggers."""
    return any(name == b"expect" for name, _ in scope["headers"])
