"""The warning at startup about servers with too few connections: app/core/database/capacity.py."""

import asyncio
import os
from pathlib import Path

import pytest
from sqlalchemy import make_url

from app.core.config import get_settings, variable
from app.core.database import capacity
from app.core.database.capacity import warn_of_too_few_connections
from tests.conformance.harness.proxy import Proxy
from tests.inspection import fetch
from tests.processes import serving
from tests.support import configure, set_databases

ROOT = Path(__file__).parents[4]

pytestmark = pytest.mark.postgresql


@pytest.fixture
async def limit(databases: None) -> int:
    """The number of connections that the server accepts from ordinary users."""
    names = ("max_connections", "superuser_reserved_connections")
    settings = [int((await fetch(f"SHOW {name}"))[0][0]) for name in names]
    return settings[0] - settings[1]


def connections_to_other_databases() -> int:
    """Return how many connections one worker may open to the server's other databases."""
    databases = get_settings().databases
    return sum(2 * databases[name].pool_size + 1 for name in {*databases} - {"primary"})


async def warnings(caplog: pytest.LogCaptureFixture, workers: int) -> list[str]:
    caplog.clear()
    await warn_of_too_few_connections(get_settings().databases, workers)
    return [r.getMessage() for r in caplog.records if r.name == "app.core.database.capacity"]


async def test_warning_counts_the_pools_of_all_workers_and_databases(
    limit: int, environment: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    others = connections_to_other_databases()
    enough = (limit // 2 - 1 - others) // 2 - 2
    configure(environment, pool_size=enough, max_overflow=2)
    assert not await warnings(caplog, workers=2)

    configure(environment, pool_size=enough + 2, max_overflow=2)
    [warning] = await warnings(caplog, workers=2)

    wanted = 2 * (2 * (enough + 4) + 1 + others)
    assert warning.startswith(f"2 worker(s) may open {wanted} connections to the server of ")
    assert "primary" in warning
    assert f", which has {limit} for all of its clients: " in warning


async def test_warning_ignores_pgbouncer_and_replicas_on_other_servers(
    limit: int, environment: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    enough = limit - 1 - connections_to_other_databases()
    configure(environment, pool_size=enough)
    assert await warnings(caplog, workers=1)

    configure(environment, pool_size=enough, read_database_url="postgresql://elsewhere/d")
    assert not await warnings(caplog, workers=1)
    configure(environment, pool_size=limit, pgbouncer=True)
    assert not [w for w in await warnings(caplog, workers=1) if "primary" in w]


async def test_unreachable_server_does_not_prevent_the_start(
    environment: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    set_databases(environment, {"primary": "postgresql://u:hidden@127.0.0.1:1/d"})

    assert not await warnings(caplog, workers=1000)


@pytest.mark.parametrize(
    "query", [b"\x00", b"pg_settings", b"X\x00"], ids=["login", "query", "end"]
)
async def test_server_that_stops_responding_does_not_prevent_the_start(
    limit: int, environment: pytest.MonkeyPatch, query: bytes
) -> None:
    async with Proxy(os.environ[variable("primary")]) as proxy:
        environment.setattr(capacity, "TIMEOUT", 0.5)
        proxy.stall(query)
        set_databases(environment, {"primary": proxy.url})

        async with asyncio.timeout(30):  # the sockets end after twice TCP_KEEPALIVE, 60 seconds
            await warn_of_too_few_connections(get_settings().databases, workers=1)


def test_serve_logs_the_warning_without_the_password(
    migrated: None, environment: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    url = make_url(os.environ[variable("primary")])
    variables = {**os.environ, "PYTHONPATH": str(ROOT), "DATABASES__PRIMARY__POOL_SIZE": "5000"}

    with serving(variables=variables, folder=tmp_path) as served:
        log = served.log.read_text()

    assert "1 worker(s) may open 100" in log
    assert not url.password or url.password not in log
