"""The HTTP protocol of `serve`: limits for slow clients, and for requests whose head is too large.

uvicorn has no such limits. They cannot be middleware: it runs when the head is complete, and does not
see which part of a response the client has read.
"""

import asyncio
import logging
import sys
from collections.abc import Callable
from http import HTTPStatus
from typing import Any

from starlette.types import ASGIApp
from uvicorn.protocols.http.flow_control import service_unavailable
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from app.core.config import get_settings

if sys.platform != "win32":
    from fcntl import ioctl
    from termios import TIOCOUTQ
from app.core.web.error_handlers import problem_response
from app.core.web.problem_details import RETRY_AFTER, Problem

MAX_HEAD_SIZE = 64 * 2**10  # bytes of the request line and all header fields, or of the trailers
MAX_FIELDS = 100  # header fields
MIN_BODY_PROGRESS = 64 * 2**10  # bytes that a client must send within REQUEST_TIMEOUT
MIN_READ_PROGRESS = 64 * 2**10  # bytes that a client must read within WRITE_TIMEOUT

CLOSE = {"Connection": "close"}
BUSY = Problem(503, "Service unavailable", "The service is busy.", RETRY_AFTER | CLOSE)
DETAILS = {
    400: "The request is not valid HTTP.",
    408: "The head, and then each 64 KiB of the body, must arrive within {0:g} s.",
    414: "The URL and the header fields may have 64 KiB together.",
    431: "The head, or the trailers, may have 64 KiB and 100 header fields.",
}

logger = logging.getLogger(__name__)


class RequestLimitsProtocol(HttpToolsProtocol):
    """Respond with 408, 414 or 431 to a request that exceeds a limit, and close its connection.

    Also close it if the client stops reading a response: a stream would hold a database connection.
    For the application, the client has disconnected.
    """

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.url = b""
        self._in_request = False
        self._in_head = False
        self._unparsed = 0  # bytes since the end of the last head or chunk of a body
        self._body_progress = 0
        self._started: Any = None  # the cycle of the newest request that is not in self.pipeline
        self._refused = 0  # the status
        self._unread = 0
        self._timers: dict[Callable[[], None], asyncio.TimerHandle] = {}

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        self.timeout_keep_alive_task = self.loop.call_later(
            self.timeout_keep_alive, self.timeout_keep_alive_handler
        )

    def connection_lost(self, exc: Exception | None) -> None:
        self._stop_timer(self._check_progress)
        self._stop_timer(self._check_read_progress)
        self.cycle = self._started  # uvicorn tells the newest request only, which may be waiting
        super().connection_lost(exc)
        if self.timeout_keep_alive_task:  # of a client that has reset its connection
            self.timeout_keep_alive_task.cancel()

    def pause_writing(self) -> None:
        super().pause_writing()
        self._unread = self._count_unread()
        self._start_timer(self._check_read_progress, get_settings().write_timeout)

    def resume_writing(self) -> None:
        self._stop_timer(self._check_read_progress)
        super().resume_writing()
        self._watch_close()

    def data_received(self, data: bytes) -> None:
        if self._refused:
            return
        self._unparsed += len(data)
        super().data_received(data)
        if self._unparsed > MAX_HEAD_SIZE:
            self._refuse(self._status_of_large_head())
        elif not (self._unparsed or self._in_request):
            self._stop_timer(self._check_progress)
        elif not (self._refused or self._check_progress in self._timers):
            self._start_timer(self._check_progress, get_settings().request_timeout)

    def on_message_begin(self) -> None:
        self._in_request = self._in_head = True
        super().on_message_begin()

    def on_headers_complete(self) -> None:
        if len(self.headers) > MAX_FIELDS or (
            self._unparsed > MAX_HEAD_SIZE
            and len(self.url) + sum(len(n) + len(v) for n, v in self.headers) > MAX_HEAD_SIZE
        ):
            self._refuse(self._status_of_large_head())
            raise ValueError("the head is too large")  # uvicorn calls send_400_response()
        super().on_headers_complete()  # raises for an invalid URL, too
        self._in_head = False
        self._unparsed = self._body_progress = 0
        self._stop_timer(self._check_progress)

    def on_body(self, body: bytes) -> None:
        self._unparsed = 0
        self._body_progress += len(body)
        super().on_body(body)

    def on_message_complete(self) -> None:
        self._in_request = False
        self._unparsed = 0
        super().on_message_complete()

    def on_response_complete(self) -> None:
        if self._refused and not (self.pipeline or self.transport.is_closing()):
            self._send_refusal()
        super().on_response_complete()
        self._watch_close()

    def timeout_keep_alive_handler(self) -> None:
        super().timeout_keep_alive_handler()
        self._watch_close()

    def send_400_response(self, msg: str) -> None:
        self._refuse(HTTPStatus.BAD_REQUEST)

    def _start_asgi_task(self, cycle: Any, app: ASGIApp) -> None:  # type: ignore[override]
        if app is service_unavailable:  # uvicorn's response in plain text
            app = problem_response(BUSY)
        self._started = cycle
        super()._start_asgi_task(cycle, app)  # type: ignore[arg-type]

    def _start_timer(self, check: Callable[[], None], seconds: float) -> None:
        if seconds:
            self._timers[check] = self.loop.call_later(seconds, check)

    def _stop_timer(self, check: Callable[[], None]) -> None:
        if timer := self._timers.pop(check, None):
            timer.cancel()

    def _watch_close(self) -> None:
        """Do not wait for ever for a client to read the last bytes of a connection that closes."""
        is_watched = self._check_read_progress in self._timers
        if (
            self.transport.is_closing()
            and self.transport.get_write_buffer_size()
            and not is_watched
        ):
            self._unread = self._count_unread()
            self._start_timer(self._check_read_progress, get_settings().write_timeout)

    def _check_progress(self) -> None:
        is_responding = self.cycle and not self.cycle.response_complete
        if not (self._in_request or is_responding):  # empty lines
            self.transport.close()
        elif (
            (is_responding and (self._in_head or not self._in_request))  # the next request begins
            or self._body_progress >= MIN_BODY_PROGRESS
            or self.flow.read_paused  # the service is slow, not the client
            or (self.cycle and self.cycle.waiting_for_100_continue)
        ):
            self._body_progress = 0
            self._start_timer(self._check_progress, get_settings().request_timeout)
        else:
            self._refuse(HTTPStatus.REQUEST_TIMEOUT)

    def _check_read_progress(self) -> None:
        unread = self._count_unread()
        seconds = get_settings().write_timeout
        if self._unread - unread >= MIN_READ_PROGRESS:
            self._unread = unread
            self._start_timer(self._check_read_progress, seconds)
        else:
            logger.warning("The client has not read 64 KiB within WRITE_TIMEOUT=%g s.", seconds)
            self.transport.abort()

    def _count_unread(self) -> int:
        """Return the number of bytes that wait in this process and, if it tells, in the kernel."""
        unread: int = self.transport.get_write_buffer_size()
        if sys.platform != "win32":
            queued = ioctl(self.transport.get_extra_info("socket").fileno(), TIOCOUTQ, bytes(4))
            unread += int.from_bytes(queued, sys.byteorder)
        return unread

    def _status_of_large_head(self) -> HTTPStatus:
        return HTTPStatus(414 if len(self.url) > MAX_HEAD_SIZE // 2 else 431)

    def _refuse(self, status: HTTPStatus) -> None:
        """Respond to the request that is being received, after the responses to earlier ones."""
        if self._refused or self.transport.is_closing():
            return
        logger.warning("A request was refused: %s %s", status.value, status.phrase)
        self._refused = status.value
        self._stop_timer(self._check_progress)
        cycle: Any = self.cycle if self._in_request and not self._in_head else None
        if cycle:
            cycle.disconnected = True  # for the application, and what it still sends is ignored
            cycle.message_event.set()
            if cycle.response_started:
                self.transport.close()
                return
            cycle.scope["refused"] = status.value  # for the request log
            if cycle is not self._started:
                self.pipeline.popleft()
        if self._started in (None, cycle) or self._started.response_complete:
            self._send_refusal()

    def _send_refusal(self) -> None:
        status = HTTPStatus(self._refused)
        detail = DETAILS[status].format(get_settings().request_timeout)
        response = problem_response(Problem(status.value, status.phrase, detail, CLOSE))
        line = f"HTTP/1.1 {status.value} {status.phrase}".encode()
        fields = [name + b": " + value for name, value in response.raw_headers]
        self.transport.write(b"\r\n".join([line, *fields, b"", bytes(response.body)]))
        self.transport.close()
        self._watch_close()
