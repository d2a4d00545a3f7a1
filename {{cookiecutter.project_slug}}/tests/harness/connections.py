"""Connections of the tests' own to PostgreSQL, beside those of the service."""

import os
from typing import Any

import asyncpg
from sqlalchemy import URL

from app.core.database.libpq import typed_parameters
from app.core.database.url import resolve_async_url

OWN = "tests"  # the application_name of such a connection
TIMEOUT = 10.0  # seconds to connect in


async def connect(url: URL) -> asyncpg.Connection:
    """Connect to the server that the URL means to the service."""
    parameters = {"timeout": TIMEOUT} | _parameters(url)
    settings = parameters.pop("server_settings", {}) | {"application_name": OWN}
    return await asyncpg.connect(**parameters, server_settings=settings)


def address(url: URL) -> tuple[str, int]:
    """Return the host, or the folder of its Unix socket, and the port of the URL's (first) server."""
    parameters = _parameters(url)
    host, port = parameters.get("host", "localhost"), parameters.get("port", 5432)
    if isinstance(host, list):
        host = host[0]
    if isinstance(port, list):
        port = port[0]
    return host, int(port)


def quoted(name: str) -> str:
    """Return a name as SQL spells it."""
    return '"' + name.replace('"', '""') + '"'


def forget_libpq() -> None:
    """Forget the variables with which libpq, and asyncpg after it, complete a URL."""
    for name in list(os.environ):
        if name.startswith("PG") and not name.startswith("PGSERVER"):  # which is the wheel's
            del os.environ[name]


def _parameters(url: URL) -> dict[str, Any]:
    resolved = resolve_async_url(url)
    _, parameters = resolved.get_dialect()().create_connect_args(resolved)
    return {**parameters, **typed_parameters(resolved.query)}
