"""Connections of the tests' own to PostgreSQL, beside those of the service."""

import asyncpg
from sqlalchemy import URL

from app.core.libpq import give_types
from app.core.urls import resolve_async_url

OWN = "tests"  # the application_name of such a connection


async def connect(url: URL) -> asyncpg.Connection:
    """Connect to the server that the URL means to the service."""
    resolved = resolve_async_url(url)
    _, parameters = resolved.get_dialect()().create_connect_args(resolved)
    give_types(parameters)
    settings = parameters.pop("server_settings", {}) | {"application_name": OWN}
    return await asyncpg.connect(**parameters, server_settings=settings)


def quoted(name: str) -> str:
    """Return a name as SQL spells it."""
    return '"' + name.replace('"', '""') + '"'
