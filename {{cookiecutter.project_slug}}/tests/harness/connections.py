"""Direct connections of the tests to PostgreSQL, outside the service's pools."""

import os
from typing import Any

import asyncpg
from sqlalchemy import URL

from app.core.database.libpq import typed_parameters
from app.core.database.url import resolve_async_url

APPLICATION_NAME = "tests"  # tells these connections from the service's in pg_stat_activity
TIMEOUT = 10.0  # seconds to connect


async def connect(url: URL) -> asyncpg.Connection:
    """Connect to this URL with the parameters that the service would use."""
    parameters = {"timeout": TIMEOUT} | _parameters(url)
    settings = parameters.pop("server_settings", {}) | {"application_name": APPLICATION_NAME}
    return await asyncpg.connect(**parameters, server_settings=settings)


def address(url: URL) -> tuple[str, int]:
    """Return the host, or the folder of the Unix socket, and the port of the URL's first server."""
    parameters = _parameters(url)
    host, port = parameters.get("host", "localhost"), parameters.get("port", 5432)
    if isinstance(host, list):
        host = host[0]
    if isinstance(port, list):
        port = port[0]
    return host, int(port)


def quote_identifier(name: str) -> str:
    """Return the name as a quoted SQL identifier."""
    return '"' + name.replace('"', '""') + '"'


def clear_libpq_environment() -> None:
    """Remove the PG* variables, from which libpq and asyncpg take the parts that a URL leaves out."""
    for name in list(os.environ):
        if name.startswith("PG") and not name.startswith(
            "PGSERVER"
        ):  # PGSERVER* belongs to the wheel
            del os.environ[name]


def _parameters(url: URL) -> dict[str, Any]:
    resolved = resolve_async_url(url)
    _, parameters = resolved.get_dialect()().create_connect_args(resolved)
    return {**parameters, **typed_parameters(resolved.query)}
