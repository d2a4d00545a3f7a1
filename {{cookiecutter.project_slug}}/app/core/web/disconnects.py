"""A client that leaves before it is answered cancels its request, and with it the transaction."""

import asyncio

from anyio.to_thread import current_default_thread_limiter
from starlette.responses import Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

CLIENT_CLOSED_REQUEST = 499  # nginx's; nobody is there to see it, but for other middleware
SECONDS_BEFORE_WATCHING = 0.1  # most requests have ended by then, and cost no task
SECONDS_BETWEEN_LOOKS = 0.05


class DisconnectMiddleware:
    """Cancel what is done for a client that has closed its connection before an answer began.

    Servers go on without this: a slow statement for somebody who has given up keeps its connection
    and its locks while the same client asks again. An answer that has begun is left alone: a stream
    notices by itself, and a background task is to end.
    """

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        client = _Client(receive, send)
        if not _waits_to_be_asked(scope):
            client.watch_soon()
        try:
            await self.app(scope, client.receive, client.send)
        except asyncio.CancelledError:
            if not client.has_cancelled or client.request.uncancel():
                raise
            await Response(status_code=CLIENT_CLOSED_REQUEST)(scope, receive, send)
        finally:
            client.stop_watching()


class _Client:
    """Both directions of a request. What comes from the client is read ahead, to see it leave."""

    def __init__(self, receive: Receive, send: Send) -> None:
        request = asyncio.current_task()
        assert request
        self.request = request
        self.has_cancelled = False
        self._receive = receive
        self._send = send
        self._ahead = asyncio.Queue[Message | Exception](maxsize=1)  # the rest waits in the network
        self._is_answered = False
        self._readers = 0
        self._timer: asyncio.TimerHandle | None = None
        self._watcher: asyncio.Task[None] | None = None

    def watch_soon(self) -> None:
        loop = asyncio.get_running_loop()
        self._timer = loop.call_later(SECONDS_BEFORE_WATCHING, self._begin_to_watch)

    def _begin_to_watch(self) -> None:
        if self._readers:  # two must not read from the server at once
            self.watch_soon()
        else:
            self._watcher = asyncio.create_task(self._watch())

    def stop_watching(self) -> None:
        for watching in (self._timer, self._watcher):
            if watching:
                watching.cancel()

    async def receive(self) -> Message:
        if self._watcher is None:
            return await self._read()
        message = await self._ahead.get()
        if isinstance(message, Exception):
            raise message
        if message["type"] == "http.disconnect":  # which is all that can be said from now on
            self._ahead.put_nowait(message)
        return message

    async def _read(self) -> Message:
        self._readers += 1
        try:
            return await self._receive()
        finally:
            self._readers -= 1
            if self._timer is None:
                self.watch_soon()

    async def send(self, message: Message) -> None:
        self._is_answered = True
        await self._send(message)

    async def _watch(self) -> None:
        message: Message = {"type": "http.request"}
        while message["type"] == "http.request":
            try:
                message = await self._receive()
            except Exception as error:  # of a middleware around this one, and meant for the app
                await self._ahead.put(error)
                return
            if message["type"] == "http.disconnect":
                await self._cancel_request()
            await self._ahead.put(message)

    async def _cancel_request(self) -> None:
        """Cancel the request, but not while a thread works for it: the thread would go on."""
        threads = current_default_thread_limiter()
        while not self._is_answered:
            if self.request not in threads.statistics().borrowers:
                self.has_cancelled = True
                self.request.cancel()
                return
            await asyncio.sleep(SECONDS_BETWEEN_LOOKS)


def _waits_to_be_asked(scope: Scope) -> bool:
    """Say whether the client sends the body when the app wants to read it, and not before."""
    return any(name == b"expect" for name, _ in scope["headers"])
