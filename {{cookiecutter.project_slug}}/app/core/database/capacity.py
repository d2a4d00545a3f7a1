"""A warning at startup when the pools may open more connections than the server accepts."""

import asyncio
import logging
from collections import defaultdict
from collections.abc import Mapping

from sqlalchemy import URL, text
from sqlalchemy.exc import SQLAlchemyError

from app.core.database.engine import make_probe_engine
from app.core.database.settings import DatabaseSettings

TIMEOUT = 2.0  # seconds

# Connections for users who are not superusers.
# https://www.postgresql.org/docs/current/runtime-config-connection.html
LIMIT = text(
    "SELECT sum(setting::integer * CASE name WHEN 'max_connections' THEN 1 ELSE -1 END) FROM pg_settings "
    "WHERE name IN ('max_connections', 'superuser_reserved_connections', 'reserved_connections')"
)

logger = logging.getLogger(__name__)


async def warn_of_too_few_connections(
    databases: Mapping[str, DatabaseSettings], workers: int
) -> None:
    """Log a warning for each PostgreSQL server that accepts fewer connections than the workers may open.

    A server that does not respond within 2 s is left out, and so is a database behind PgBouncer.
    """
    servers = defaultdict[tuple[object, ...], dict[str, DatabaseSettings]](dict)
    for name, settings in databases.items():
        url = settings.url()
        if url.get_backend_name() == "postgresql" and not settings.pgbouncer:
            servers[_server(url)][name] = settings
    checks = (_check(server, of_server, workers) for server, of_server in servers.items())
    await asyncio.gather(*checks)


async def _check(
    server: tuple[object, ...], databases: dict[str, DatabaseSettings], workers: int
) -> None:
    pools: dict[tuple[URL, str], int] = {}  # names that share a URL share its connections
    for settings in databases.values():
        size = settings.pool_size + settings.max_overflow
        pools[settings.url(), "sessions"] = size
        pools[settings.url(), "health"] = 1
        if _server(settings.url(read_only=True)) == server:
            pools[settings.url(read_only=True), "read-only sessions"] = size
    wanted = workers * sum(pools.values())
    engine = make_probe_engine(next(iter(databases.values())))
    try:
        async with asyncio.timeout(TIMEOUT), engine.connect() as connection:
            limit = await connection.scalar(LIMIT)
    except (SQLAlchemyError, OSError):
        return
    finally:
        await engine.dispose()
    if wanted > limit:
        logger.warning(
            "%s worker(s) may open %s connections to the server of %s, which has %s for all of its clients: "
            "lower POOL_SIZE or the number of workers, or put PgBouncer between.",
            *(workers, wanted, ", ".join(databases), limit),
        )


def _server(url: URL) -> tuple[object, ...]:
    return (url.host, url.port, url.query.get("host"), url.query.get("port"))
