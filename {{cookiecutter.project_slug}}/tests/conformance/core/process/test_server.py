"""The server of `serve`, over sockets: its settings, and limits for slow and large requests."""

import asyncio
import json
import socket
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from functools import partial
from pathlib import Path
from urllib.parse import urlsplit

import httpx2
import pytest

from tests.processes import VARIABLES, Serving, serving
from tests.support import USERS, problem, until, user_values

SECONDS = 30.0  # for a response; the machine may be busy

HEAD = b"GET /health/live HTTP/1.1\r\nHost: a\r\n"
POST = f"POST {USERS} HTTP/1.1\r\nHost: a\r\nContent-Type: application/json\r\n".encode()
TOO_MUCH = 70_000  # bytes: more than MAX_HEAD_SIZE


@contextmanager
def connected(served: Serving) -> Iterator[socket.socket]:
    url = urlsplit(served.url)
    assert url.hostname
    with socket.create_connection((url.hostname, url.port or 0), SECONDS) as connection:
        yield connection


def rest(connection: socket.socket) -> str:
    """Read until the server closes the connection, which may have unread data of the client."""
    received = b""
    with suppress(ConnectionResetError):
        while chunk := connection.recv(65536):
            received += chunk
    return received.decode()


DETAILS = {
    400: "The request is not valid HTTP.",
    408: "The head, and then each 64 KiB of the body, must arrive within 1 s.",
    414: "The URL and the header fields may have 64 KiB together.",
    431: "The head, or the trailers, may have 64 KiB and 100 header fields.",
}


def is_refused(response: str, status: int) -> bool:
    head, _, body = response.partition("\r\n\r\n")
    return (
        head.startswith(f"HTTP/1.1 {status} ")
        and "\r\ncontent-type: application/problem+json" in head
        and f'"status":{status},"detail":"{DETAILS[status]}"' in body
    )


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Serving]:
    settings = {"REQUEST_TIMEOUT": "1", "KEEP_ALIVE_TIMEOUT": "1", "MIGRATE_ON_START": "true"}
    folder = tmp_path_factory.mktemp("served")
    with serving(variables=VARIABLES | settings, folder=folder) as served:
        yield served


LARGE = {
    "a header without end": (HEAD + b"X: " + b"x" * TOO_MUCH, 431),
    "a complete large header": (HEAD + b"X: " + b"x" * TOO_MUCH + b"\r\n\r\n", 431),
    "many headers": (HEAD + b"X: y\r\n" * 100 + b"\r\n", 431),
    "a URL without end": (b"GET /" + b"x" * TOO_MUCH, 414),
    "trailers without end": (
        POST + b"Transfer-Encoding: chunked\r\n\r\n2\r\n{}\r\n0\r\nX: " + b"x" * TOO_MUCH * 10,
        431,
    ),
    "no HTTP": (b"\x16\x03\x01\x02\x00\r\n\r\n", 400),
}


@pytest.mark.parametrize("case", LARGE)
def test_too_large_head_is_refused_and_the_connection_closed(served: Serving, case: str) -> None:
    request, status = LARGE[case]

    with connected(served) as connection:
        with suppress(ConnectionError):
            connection.sendall(request[: len(request) // 2])
            connection.sendall(request[len(request) // 2 :])

        assert is_refused(rest(connection), status)


SLOW = {
    "head": HEAD,
    "head, after another request": HEAD + b"\r\n" + HEAD,
    "body": POST + b"Content-Length: 100\r\n\r\n{",
    "chunked body": POST + b"Transfer-Encoding: chunked\r\n\r\n2\r\n{}\r\n",
}


@pytest.mark.parametrize("case", SLOW)
def test_slow_request_is_408_and_the_connection_closed(served: Serving, case: str) -> None:
    with connected(served) as connection:
        connection.sendall(SLOW[case])

        assert is_refused("HTTP/1.1 408 " + rest(connection).partition("HTTP/1.1 408 ")[2], 408)


def test_client_that_sends_one_byte_after_another_is_408(served: Serving) -> None:
    with connected(served) as connection:
        connection.sendall(POST + b"Content-Length: 10000000\r\n\r\n")
        connection.settimeout(0.05)
        response = b""
        for _ in range(int(SECONDS / 0.05)):
            connection.sendall(b" ")
            try:
                response = connection.recv(65536)
                break
            except TimeoutError:
                continue

    assert is_refused(response.decode(), 408)


def test_large_body_in_small_steps_is_accepted(served: Serving) -> None:
    """Each step is more than MIN_BODY_PROGRESS; together they take longer than REQUEST_TIMEOUT."""
    body = json.dumps(user_values()).encode().ljust(80_000 * 8)

    with connected(served) as connection:
        connection.sendall(POST + b"Content-Length: %d\r\n\r\n" % len(body))
        connection.settimeout(0.2)
        for start in range(0, len(body), 80_000):
            with pytest.raises(TimeoutError):
                connection.recv(1)
            connection.sendall(body[start : start + 80_000])
        connection.settimeout(SECONDS)

        assert connection.recv(65536).startswith(b"HTTP/1.1 201 ")


@pytest.mark.parametrize("request_", [b"", b"\r\n", HEAD + b"\r\n"], ids=["new", "empty", "used"])
def test_idle_connection_is_closed_without_an_error(served: Serving, request_: bytes) -> None:
    with connected(served) as connection:
        connection.sendall(request_)

        assert rest(connection).count("HTTP/1.1") == (request_ == HEAD + b"\r\n")


def redirect(served: Serving) -> str:
    headers = {"X-Forwarded-Proto": "https"}
    return str(httpx2.get(f"{served.url}{USERS}/", headers=headers).headers["location"])


def test_settings_of_the_environment_are_used(tmp_path: Path, served: Serving) -> None:
    assert redirect(served).startswith("https://127.0.0.1")

    settings = {
        "WEB_CONCURRENCY": "2",
        "FORWARDED_ALLOW_IPS": "10.0.0.0/8, ::1",
        "LIMIT_CONCURRENCY": "10",
    }
    with serving("--host", "::", variables=VARIABLES | settings, folder=tmp_path) as both:
        version_6 = both._replace(url=both.url.replace("127.0.0.1", "[::1]"))

        assert redirect(both).startswith("http://127.0.0.1")
        assert redirect(version_6).startswith("https://[::1]")
        started = "Started server process"
        asyncio.run(until(lambda: both.log.read_text().count(started) == 2, SECONDS))
        with ExitStack() as stack:
            clients = [stack.enter_context(httpx2.Client(verify=False)) for _ in range(30)]
            responses = [client.get(f"{both.url}/health/live") for client in clients]
            busy = [response for response in responses if response.status_code == 503]
            assert problem(busy[0])["status"] == 503


def test_limit_of_concurrency_is_the_number_of_connections_served(tmp_path: Path) -> None:
    variables = VARIABLES | {"LIMIT_CONCURRENCY": "1"}
    with serving(variables=variables, folder=tmp_path) as limited, ExitStack() as stack:
        one, other = (stack.enter_context(httpx2.Client()) for _ in range(2))
        live = f"{limited.url}/health/live"
        served = partial(until, lambda: one.get(live).status_code == 200)

        asyncio.run(served())  # the server has closed the connections of earlier requests
        assert problem(other.get(live))["detail"] == "The service is busy."
        asyncio.run(served())  # and the refused one
