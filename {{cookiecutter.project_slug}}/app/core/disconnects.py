"""A client that leaves before it is answered cancels its request, and with it the transaction."""

import asyncio

from starlette.types import ASGIApp, Message, Receive, Scope, Send


class CancelOnDisconnect:
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
        if not _announces_a_body(scope):  # which the app may not want to be sent
            client.unread = await client.receive()
        try:
            await self.app(scope, client.receive, client.send)
        except asyncio.CancelledError:
            if not client.has_cancelled or client.request.uncancel():
                raise
        finally:
            client.stop_watching()


class _Client:
    """Both directions of a request; when its body has been read, the client is watched."""

    def __init__(self, receive: Receive, send: Send) -> None:
        request = asyncio.current_task()
        assert request
        self.request = request
        self.has_cancelled = False
        self.unread: Message | None = None
        self._receive = receive
        self._send = send
        self._is_answered = False
        self._leaving: asyncio.Future[Message] | None = None

    async def receive(self) -> Message:
        if self.unread:
            message, self.unread = self.unread, None
        elif self._leaving:
            message = await asyncio.shield(self._leaving)
        else:
            message = await self._receive()
            if not message.get("more_body"):  # all that can come now is the disconnect
                self._leaving = asyncio.ensure_future(self._receive())
                self._leaving.add_done_callback(self._cancel_request)
        return message

    async def send(self, message: Message) -> None:
        self._is_answered = True
        await self._send(message)

    def stop_watching(self) -> None:
        if self._leaving:
            self._leaving.cancel()

    def _cancel_request(self, leaving: asyncio.Future[Message]) -> None:
        has_left = not leaving.cancelled() and not leaving.exception()
        if has_left and not self._is_answered and not self.request.done():
            self.has_cancelled = True
            self.request.cancel()


def _announces_a_body(scope: Scope) -> bool:
    headers = dict(scope["headers"])
    return headers.get(b"content-length", b"0") != b"0" or b"transfer-encoding" in headers
