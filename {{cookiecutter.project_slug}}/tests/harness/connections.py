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
    parameters = {"timeout": TIMEOUT} | connection_parameters(url)
    settings = parameters.pop("server_settings", {}) | {"application_name": APPLICATION_NAME}
    return await asyncpg.connect(**parameters, server_settings=settings)


def quote_identifier(name: str) -> str:
    """Return the name as a quoted SQL identifier."""
    return '"' + name.replace('"', '""') + '"'


def clear_libpq_environment() -> None:
    """Remove the PG* variables, from which libpq and asyncpg take the parts that a URL leaves out."""
    for name in list(os.environ):
        # PGSERVER* belongs to the wheel.
        if name.startswith("PG") and not name.startswith("PGSERVER"):
            del os.environ[name]


def connection_parameters(url: URL) -> dict[str, Any]:
    """Return the arguments of `asyncpg.connect` for this URL, as the service would pass them."""
    resolved = resolve_async_url(url)
    _, parameters = resolved.get_dialect()().create_connect_args(resolved)
    return {**parameters, **typed_parameters(resolved.query)}
