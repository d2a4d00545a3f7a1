"""Helpers of the tests: settings, users, failing transactions, clients and servers."""

import asyncio
import gc
import logging
import os
import sys
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import asynccontextmanager
from inspect import isawaitable
from typing import Any
from uuid import uuid4

import pytest
import uvicorn
from fastapi import FastAPI
from httpx2 import ASGITransport, AsyncClient, Response
from sqlalchemy import text
from sqlalchemy.exc import IntegrityError
from sqlalchemy.ext.asyncio import AsyncSession
from starlette.types import ASGIApp, Receive, Scope, Send

from app import migrations
from app.core.config import Settings, get_settings, variable
from app.core.db import session_scope
from app.core.web.request_limits import RequestLimitsProtocol
from app.models import User
from app.routers import API_PREFIX

USERS = f"{API_PREFIX}/users"  # the tests use these routes as an example


def clear_environment(patch: pytest.MonkeyPatch) -> None:
    """Remove the developer's own settings from the environment, and ignore their .env file."""
    for name in os.environ:
        is_setting = name.lower().partition("__")[0] in Settings.model_fields
        if is_setting or name.upper().startswith("OTEL_"):
            patch.delenv(name)
    patch.setenv("ENVIRONMENT", "test")
    patch.setitem(Settings.model_config, "env_file", None)
    patch.setattr("app.services.health.CHECK_TIMEOUT", 30.0)  # seconds, on a busy machine
    get_settings.cache_clear()


def set_databases(patch: pytest.MonkeyPatch, urls: dict[str, str]) -> None:
    """Set the URL of each of these databases."""
    for name, url in urls.items():
        patch.setenv(variable(name), url)
    get_settings.cache_clear()


def configure(environment: pytest.MonkeyPatch, **settings: object) -> None:
    """Set these settings of the primary database."""
    for name, value in settings.items():
        environment.setenv(variable("primary", name), str(value))
    get_settings.cache_clear()


def migrate(database: str, url: str) -> None:
    """Migrate the database at this URL to the newest revision of the database with this name."""
    with pytest.MonkeyPatch.context() as patch:
        clear_environment(patch)
        set_databases(patch, {database: url})
        migrations.upgrade(database)
    get_settings.cache_clear()


def collect_garbage() -> None:
    """Collect garbage, so that a resource leaked by this test is reported here, not in a later test."""
    # These keep a failed test's frames alive.
    for name in ("last_exc", "last_type", "last_value", "last_traceback"):
        vars(sys).pop(name, None)
    gc.collect()
    gc.freeze()  # FastAPI keeps routes of earlier applications: do not look at them after each test


async def until(condition: Callable[[], bool | Awaitable[bool]], seconds: float = 10) -> None:
    """Wait until the condition is true. Raise TimeoutError if it is not within this time."""
    async with asyncio.timeout(seconds):
        while True:
            result = condition()
            if await result if isawaitable(result) else result:
                return
            await asyncio.sleep(0.01)


# The variables of production, all but the URLs: add a setting that your service requires there.
PRODUCTION = {"ENVIRONMENT": "production"}


def set_production(environment: pytest.MonkeyPatch) -> None:
    for name, value in PRODUCTION.items():
        environment.setenv(name, value)


def user_values(name: str = "Ada", **values: Any) -> dict[str, Any]:
    """Return the fields of a valid user. All tests create users with them: add a required field here."""
    return {"name": name, "email": new_email()} | values


def new_user(name: str = "Ada", **values: Any) -> User:
    """Return a user that is not stored yet."""
    return User(**user_values(name, **values))


def new_email() -> str:
    return f"{uuid4()}@example.com"


async def query() -> None:
    """Use a session of the primary database."""
    async with session_scope() as session:
        await session.execute(text("SELECT 1"))


async def serves(client: AsyncClient) -> bool:
    """Return whether the service can write and read. Each uses a connection pool of its own."""
    created = await client.post(USERS, json=user_values())
    if not created.is_success:
        return False
    response = await client.get(f"{USERS}/{created.json()['id']}")
    return bool(created.json() == response.json())


def problem(response: Response) -> Any:
    """Return the problem details (RFC 9457) of an error response."""
    assert response.headers["content-type"] == "application/problem+json"
    document = response.json()
    assert document["status"] == response.status_code
    return document


async def abort_transaction(session: AsyncSession) -> None:
    """Write a row, then run a statement that fails and aborts the transaction; ignore its error."""
    session.add(new_user())
    await session.flush()
    users = User.__tablename__
    escape = " OR ROLLBACK" if session.get_bind().dialect.name == "sqlite" else ""
    with pytest.raises(IntegrityError):
        await session.execute(text(f"INSERT{escape} INTO {users} SELECT * FROM {users}"))


async def violate_at_commit(session: AsyncSession) -> None:
    """Violate a deferred constraint: every statement succeeds and COMMIT fails."""
    await session.execute(text("CREATE TABLE parents (id INTEGER PRIMARY KEY)"))
    await session.execute(
        text(
            "CREATE TABLE children (parent_id INTEGER REFERENCES parents (id) "
            "DEFERRABLE INITIALLY DEFERRED)"
        )
    )
    await session.execute(text("INSERT INTO children VALUES (1)"))


def in_process(app: ASGIApp) -> ASGITransport:
    """Return a transport that calls the app. It logs what the app raises, as uvicorn does.

    pytest shows this log if the test fails: the traceback of a 500 that the test did not expect.
    """

    async def logged(scope: Scope, receive: Receive, send: Send) -> None:
        try:
            await app(scope, receive, send)
        except Exception:
            logging.getLogger(__name__).exception("the application raised an exception")
            raise

    return ASGITransport(logged, raise_app_exceptions=False)


@asynccontextmanager
async def serve(app: FastAPI) -> AsyncGenerator[AsyncClient, None]:
    """Serve the app with uvicorn on a free port and yield a client for it."""
    config = uvicorn.Config(
        app,
        port=0,
        http=RequestLimitsProtocol,
        log_config=None,
        timeout_graceful_shutdown=5,
    )
    server = uvicorn.Server(config)
    serving = asyncio.create_task(server.serve())
    await until(lambda: server.started or serving.done())
    try:
        assert server.started, serving.result()
        host, port = server.servers[0].sockets[0].getsockname()
        # verify=False: do not load certificates, which HTTP does not need.
        async with AsyncClient(base_url=f"http://{host}:{port}", verify=False) as client:
            yield client
    finally:
        server.should_exit = True
        await serving


@asynccontextmanager
async def disconnecting(
    server: AsyncClient, method: str, path: str, *headers: str
) -> AsyncGenerator[asyncio.StreamReader, None]:
    """Send the head of a request, and disconnect at the end of the block. Yield the reader."""
    url = server.base_url
    reader, writer = await asyncio.open_connection(url.host, url.port)
    head = [f"{method} {path} HTTP/1.1", f"Host: {url.host}", *headers, "", ""]
    writer.write("\r\n".join(head).encode())
    try:
        yield reader
    finally:
        writer.close()
        await writer.wait_closed()
