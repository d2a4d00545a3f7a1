"""Sessions through PgBouncer in transaction mode: no state stays on a server connection."""

import os
from collections.abc import Iterator
from pathlib import Path

import pytest
from httpx2 import AsyncClient
from sqlalchemy import make_url, select, text

from app.core.config import variable
from app.core.db import dispose_engines, session_scope
from app.models import User
from tests.conformance.harness.pgbouncer import PgBouncer, pgbouncer_before
from tests.conformance.harness.proxy import Proxy
from tests.conformance.support import is_unavailable
from tests.harness.connections import connect
from tests.harness.postgresql import Server
from tests.inspection import driver, fetch, pid
from tests.processes import run
from tests.support import USERS, configure, new_user, serves, set_databases

pytestmark = pytest.mark.pgbouncer

# Prepared statements and settings that outlive the transaction on a server connection.
SESSION_STATE = """
SELECT name FROM pg_prepared_statements UNION ALL
SELECT name FROM pg_settings WHERE source = 'session'
AND name NOT IN ('application_name', 'client_encoding')
"""


async def open_two_server_connections() -> None:
    async with session_scope() as one, session_scope() as other:
        assert await pid(one) != await pid(other)


@pytest.fixture
def own_pgbouncer(
    databases: None, environment: pytest.MonkeyPatch, pgbouncer: PgBouncer, postgresql: Server
) -> Iterator[PgBouncer]:
    """A PgBouncer for this test only, with one connection to the primary database."""
    database = make_url(os.environ[variable("primary")]).database
    with pgbouncer_before(postgresql, default_pool_size=1, query_wait_timeout=1) as own_pgbouncer:
        set_databases(environment, {"primary": own_pgbouncer.url(database or "")})
        yield own_pgbouncer


async def test_transactions_of_a_client_connection_use_different_server_connections(
    single_connection: None, environment: pytest.MonkeyPatch
) -> None:
    configure(environment, pool_size=2)
    await open_two_server_connections()
    await dispose_engines()
    configure(environment, pool_size=1)

    pids = set()
    drivers = set()
    for _ in range(3):
        async with session_scope() as session:
            pids.add(await pid(session))
            drivers.add(await driver(session))

    assert len(pids) > 1 == len(drivers)


async def test_no_session_state_stays_on_a_server_connection(own_pgbouncer: PgBouncer) -> None:
    for read_only in (False, True, False, True):
        async with session_scope(read_only=read_only) as session:
            for name in ("Ada", "Bob"):
                await session.scalars(select(User).where(User.name == name))

    url = make_url(os.environ[variable("primary")])
    connection = await connect(url.update_query_dict({"statement_cache_size": "0"}))
    async with connection.transaction():
        state = await connection.fetch(SESSION_STATE)
    await connection.close()
    assert state == []


async def test_statement_works_after_a_migration_changed_its_types(
    own_pgbouncer: PgBouncer,
) -> None:
    async def read() -> object:
        async with session_scope() as session:
            return await session.scalar(text("SELECT value FROM things"))

    await fetch("CREATE TABLE things AS SELECT 1 AS value")
    before = await read()
    await fetch("ALTER TABLE things ALTER value TYPE text")

    assert [1, "1"] == [before, await read()]


@pytest.mark.parametrize("read_only", [False, True])
async def test_timeouts_cost_no_round_trip(
    databases: None, environment: pytest.MonkeyPatch, read_only: bool
) -> None:
    async with Proxy(os.environ[variable("primary")]) as proxy:
        set_databases(environment, {"primary": proxy.url})
        for _ in range(2):
            before = proxy.round_trips
            async with session_scope(read_only=read_only) as session:
                assert await session.scalar(text("SHOW lock_timeout")) == "10s"
        assert proxy.round_trips - before == len(["BEGIN", "prepare", "execute", "COMMIT"])
        await dispose_engines()


async def test_request_after_a_pgbouncer_restart_succeeds(
    own_pgbouncer: PgBouncer, server: AsyncClient
) -> None:
    for _ in range(2):
        assert await serves(server)
        own_pgbouncer.crash()
        own_pgbouncer.start()

    assert await serves(server)


async def test_pgbouncer_that_is_down_or_full_returns_503(
    own_pgbouncer: PgBouncer, client: AsyncClient
) -> None:
    async with session_scope() as holder:
        await holder.execute(text("SELECT 1"))
        full = await client.get(USERS)
    own_pgbouncer.crash()
    down = await client.get(USERS)
    own_pgbouncer.start()

    assert is_unavailable(full)
    assert is_unavailable(down)
    assert await serves(client)


async def test_migrations_bypass_pgbouncer(
    own_pgbouncer: PgBouncer, new_database: str, environment: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    url = own_pgbouncer.url(make_url(new_database).database or "")
    set_databases(environment, {"primary": url})
    configure(environment, migration_database_url=new_database)

    own_pgbouncer.crash()
    run("migrate", "--database", "primary", variables={**os.environ}, folder=tmp_path)
    own_pgbouncer.start()

    assert await fetch("SHOW lock_timeout") == [("10s",)]  # also outside of a transaction
    async with session_scope() as session:
        session.add(new_user())
    await dispose_engines()
