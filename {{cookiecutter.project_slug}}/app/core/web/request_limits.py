"""The HTTP protocol of `serve`: limits for slow clients, and for requests whose head is too large.

uvicorn has no such limits. They cannot be middleware: it runs when the head is complete, and does not
see which part of a response the client has read.
"""

import asyncio
import logging
import sys
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

BUSY = Problem(503, "Service unavailable", "The service is busy.", RETRY_AFTER)

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
        self._refusal = HTTPStatus.BAD_REQUEST
        self._timer: asyncio.TimerHandle | None = None
        self._unread = 0
        self._read_timer: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        self.timeout_keep_alive_task = self.loop.call_later(
            self.timeout_keep_alive, self.timeout_keep_alive_handler
        )

    def connection_lost(self, exc: Exception | None) -> None:
        self._stop_timer()
        self._stop_read_timer()
        super().connection_lost(exc)

    def pause_writing(self) -> None:
        super().pause_writing()
        self._unread = self._count_unread()
        self._start_read_timer()

    def resume_writing(self) -> None:
        self._stop_read_timer()
        super().resume_writing()

    def data_received(self, data: bytes) -> None:
        self._unparsed += len(data)
        super().data_received(data)
        if self._unparsed > MAX_HEAD_SIZE:
            self._refuse(self._status_of_large_head())
        elif not (self._unparsed or self._in_request) or self.transport.is_closing():
            self._stop_timer()
        elif self._timer is None:
            self._start_timer()

    def on_message_begin(self) -> None:
        self._in_request = self._in_head = True
        super().on_message_begin()

    def on_headers_complete(self) -> None:
        if len(self.headers) > MAX_FIELDS or (
            self._unparsed > MAX_HEAD_SIZE
            and len(self.url) + sum(len(n) + len(v) for n, v in self.headers) > MAX_HEAD_SIZE
        ):
            self._refusal = self._status_of_large_head()
            raise ValueError("the head is too large")  # uvicorn calls send_400_response()
        self._in_head = False
        self._unparsed = self._body_progress = 0
        self._stop_timer()
        super().on_headers_complete()

    def on_body(self, body: bytes) -> None:
        self._unparsed = 0
        self._body_progress += len(body)
        super().on_body(body)

    def on_message_complete(self) -> None:
        self._in_request = False
        self._unparsed = 0
        super().on_message_complete()

    def send_400_response(self, msg: str) -> None:
        self._refuse(self._refusal)

    def _start_asgi_task(self, cycle: Any, app: ASGIApp) -> None:  # type: ignore[override]
        if app is service_unavailable:  # uvicorn's response in plain text
            app = problem_response(BUSY)
        super()._start_asgi_task(cycle, app)  # type: ignore[arg-type]

    def _start_timer(self) -> None:
        seconds = get_settings().request_timeout
        self._timer = self.loop.call_later(seconds, self._check_progress)

    def _stop_timer(self) -> None:
        if self._timer:
            self._timer.cancel()
        self._timer = None

    def _check_progress(self) -> None:
        is_responding = self.cycle and not self.cycle.response_complete
        if is_responding and (self._in_head or not self._in_request):
            self._start_timer()  # the client has begun the next request while it reads
        elif not self._in_request:  # empty lines
            self.transport.close()
        elif (
            self._body_progress >= MIN_BODY_PROGRESS
            or self.flow.read_paused  # the service is slow, not the client
            or (self.cycle and self.cycle.waiting_for_100_continue)
        ):
            self._body_progress = 0
            self._start_timer()
        else:
            self._refuse(HTTPStatus.REQUEST_TIMEOUT)

    def _start_read_timer(self) -> None:
        if seconds := get_settings().write_timeout:
            self._read_timer = self.loop.call_later(seconds, self._check_read_progress)

    def _stop_read_timer(self) -> None:
        if self._read_timer:
            self._read_timer.cancel()
        self._read_timer = None

    def _check_read_progress(self) -> None:
        unread = self._count_unread()
        if self._unread - unread >= MIN_READ_PROGRESS:
            self._unread = unread
            self._start_read_timer()
        else:
            seconds = get_settings().write_timeout
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
        is_url = len(self.url) > MAX_HEAD_SIZE // 2
        return (
            HTTPStatus.REQUEST_URI_TOO_LONG
            if is_url
            else HTTPStatus.REQUEST_HEADER_FIELDS_TOO_LARGE
        )

    def _refuse(self, status: HTTPStatus) -> None:
        self._stop_timer()
        if self.transport.is_closing():
            return
        logger.warning("A request was refused: %s %s", status.value, status.phrase)
        is_responding = self.cycle and self.cycle.response_started
        if not is_responding or self.cycle.response_complete:
            response = problem_response(Problem(status.value, status.phrase))
            fields = [*response.raw_headers, (b"connection", b"close")]
            head = b"".join(name + b": " + value + b"\r\n" for name, value in fields)
            line = f"HTTP/1.1 {status.value} {status.phrase}\r\n".encode()
            self.transport.write(line + head + b"\r\n" + bytes(response.body))
        self.transport.close()
