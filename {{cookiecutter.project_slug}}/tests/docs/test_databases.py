"""The examples of docs/databases.md: outbox, database per tenant, partitions."""

import asyncio
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from typing import Annotated, Any

import pytest
from alembic.autogenerate import compare_metadata
from alembic.runtime.migration import MigrationContext
from fastapi import Depends, FastAPI
from httpx2 import AsyncClient
from sqlalchemy import Connection, func, select, text
from sqlalchemy.exc import DBAPIError, OperationalError
from sqlalchemy.ext.asyncio import AsyncSession

from app.core.database.registry import live_pools
from app.core.db import dispose_engines, session_scope
from app.migrations import draft
from app.models import User, base
from tests.conformance.harness.proxy import Proxy
from tests.conformance.inspection import until_waiting
from tests.conformance.support import create_tables
from tests.docs.conftest import Load
from tests.harness.backends import Backend
from tests.inspection import fetch, kill, stored_users
from tests.support import configure, new_user, problem, user_values


@pytest.fixture
async def outbox(load: Load) -> Any:
    outbox = load("an outbox")
    await create_tables(base.PrimaryBase)
    return outbox


async def write(outbox: Any, *names: str) -> None:
    for name in names:
        async with session_scope() as session:
            await outbox.sign_up(session, User(name=name, email=name))


class Broker(list[Any]):
    async def deliver(self, message: Any) -> None:
        self.append(message)

    @property
    def names(self) -> list[str]:
        return [message.payload["email"] for message in self]


async def contacts(outbox: Any) -> int:
    """Count the messages that the receiver has handled."""
    async with session_scope() as session:
        return await session.scalar(select(func.count(outbox.Contact.id))) or 0


async def test_message_of_a_rolled_back_change_is_not_sent(outbox: Any) -> None:
    broker = Broker()
    await write(outbox, "Ada", "Grace")
    with pytest.raises(ZeroDivisionError):
        async with session_scope() as session:
            await outbox.sign_up(session, new_user())
            await session.flush()
            raise ZeroDivisionError

    assert [await outbox.relay(broker.deliver), await outbox.relay(broker.deliver)] == [2, 0]
    assert broker.names == ["Ada", "Grace"]
    assert await stored_users() == 2


async def test_ids_of_deleted_messages_are_not_reused(outbox: Any) -> None:
    broker = Broker()
    for name in ("Ada", "Grace"):
        await write(outbox, name)
        await outbox.relay(broker.deliver)

    assert len({message.id for message in broker}) == 2


async def fail() -> None:
    raise ConnectionResetError


async def cancel() -> None:
    raise asyncio.CancelledError


async def lose_the_connection() -> None:
    """Terminate the server process of the relay's transaction."""
    [(number,)] = await fetch(
        "SELECT pid FROM pg_stat_activity "
        "WHERE datname = current_database() AND state = 'idle in transaction'"
    )
    await kill(number)


async def send_again_after(crash: Callable[[], Awaitable[None]], outbox: Any) -> None:
    broker = Broker()
    await write(outbox, "Ada", "Grace")

    async def deliver_and_crash(message: Any) -> None:
        await broker.deliver(message)
        if len(broker) == 1:
            await crash()

    with pytest.raises((OperationalError, ConnectionResetError, asyncio.CancelledError)):
        await outbox.relay(deliver_and_crash)
    assert await outbox.relay(broker.deliver) == 2
    for message in broker:
        await outbox.receive(message)

    assert broker.names == ["Ada", "Ada", "Grace"]  # the first relay sent nothing after the crash
    assert await contacts(outbox) == 2


@pytest.mark.parametrize("crash", [fail, cancel])
async def test_message_is_sent_again_after_a_crash_and_handled_once(
    outbox: Any, crash: Callable[[], Awaitable[None]]
) -> None:
    await send_again_after(crash, outbox)


@pytest.mark.postgresql
async def test_message_is_sent_again_after_a_lost_connection_and_handled_once(outbox: Any) -> None:
    await send_again_after(lose_the_connection, outbox)


@pytest.mark.postgresql
async def test_batch_may_take_longer_than_idle_in_transaction_timeout(
    outbox: Any, environment: pytest.MonkeyPatch
) -> None:
    configure(environment, idle_in_transaction_timeout=0.6)
    await dispose_engines()
    broker = Broker()
    await write(outbox, *"12345")

    async def deliver_slowly(message: Any) -> None:
        await asyncio.sleep(0.15)
        await broker.deliver(message)

    assert await outbox.relay(deliver_slowly) == 5
    assert await outbox.relay(broker.deliver) == 0
    assert broker.names == [*"12345"]


@pytest.mark.postgresql
@pytest.mark.parametrize(("lock", "order"), [(False, ["2", "1"]), (True, ["1", "2"])])
async def test_messages_are_sent_in_commit_order_only_with_the_lock(
    outbox: Any, lock: bool, order: list[str]
) -> None:
    broker = Broker()

    async def write_second() -> None:
        async with session_scope() as session:
            await take_the_lock(session)
            await outbox.sign_up(session, User(name="2", email="2"))

    async def take_the_lock(session: AsyncSession) -> None:
        if lock:
            await session.execute(text("SELECT pg_advisory_xact_lock(1)"))

    async with session_scope() as session:
        await take_the_lock(session)
        await outbox.sign_up(session, User(name="1", email="1"))
        await session.flush()
        second = asyncio.create_task(write_second())
        if not lock:
            await second
        await outbox.relay(broker.deliver)
    await second
    await outbox.relay(broker.deliver)

    assert broker.names == order


async def test_message_received_five_times_at_once_is_handled_once(outbox: Any) -> None:
    broker = Broker()
    await write(outbox, "Ada")
    await outbox.relay(broker.deliver)
    [message] = broker

    await asyncio.gather(*(outbox.receive(message) for _ in range(5)))

    assert await contacts(outbox) == 1


async def test_two_relays_at_once_send_each_message_once(backend: Backend, outbox: Any) -> None:
    """On PostgreSQL the second relay skips the first one's messages; on SQLite it waits."""
    broker, sending, may_continue = Broker(), asyncio.Event(), asyncio.Event()
    await write(outbox, "1", "2", "3", "4")

    async def deliver_slowly(message: Any) -> None:
        sending.set()
        await may_continue.wait()
        await broker.deliver(message)

    first = asyncio.create_task(outbox.relay(deliver_slowly, limit=2))
    await sending.wait()
    second = asyncio.create_task(outbox.relay(broker.deliver))
    if backend.kind == "postgresql":
        async with asyncio.timeout(5):
            assert await second == 2
        assert broker.names == ["3", "4"]
    may_continue.set()

    assert (2, 2) == (await first, await second)
    assert sorted(broker.names) == ["1", "2", "3", "4"]


MAX_ENGINES = 2


@pytest.fixture
def new_tenants(load: Load, backend: Backend) -> Any:
    """The example with four tenants and empty databases."""
    tenants = load("a database per tenant")
    tenants.URLS |= {f"tenant{number}": backend.new() for number in range(4)}
    return tenants


@pytest.fixture
async def tenants(new_tenants: Any) -> Any:
    """The example with four tenants and databases that have a table for users."""
    for tenant in new_tenants.URLS:
        settings = new_tenants.tenants.settings(tenant)
        async with session_scope(settings) as session:
            await (await session.connection()).run_sync(User.metadata.create_all)
        await dispose_engines(settings)
    return new_tenants


def engines() -> int:
    """Return how many tenants have an engine."""
    return sum(name.startswith("tenant") for name, _, _ in live_pools())


@pytest.fixture
async def most_engines() -> AsyncGenerator[Callable[[], int], None]:
    """Return the highest number of tenants that had an engine at the same time."""
    highest = 0

    async def watch() -> None:
        nonlocal highest
        while True:
            highest = max(highest, engines())
            await asyncio.sleep(0)

    watching = asyncio.create_task(watch())
    yield lambda: highest
    watching.cancel()
    await asyncio.wait([watching])


async def create(server: AsyncClient, tenant: str) -> None:
    user = user_values()
    response = await server.post("/tenant-users", json=user, headers={"X-Tenant": tenant})
    assert response.status_code == 201, response.text


async def counts(server: AsyncClient, tenants: Any) -> list[int]:
    responses = [
        await server.get("/tenant-users", headers={"X-Tenant": tenant}) for tenant in tenants.URLS
    ]
    return [response.json() for response in responses]


async def test_migrated_tenants_have_their_own_data_and_few_engines(
    new_tenants: Any, app: FastAPI, server: AsyncClient, most_engines: Callable[[], int]
) -> None:
    tenants = new_tenants
    await asyncio.to_thread(tenants.tenants.migrate)
    app.include_router(tenants.router)
    for number, tenant in enumerate(tenants.URLS):
        for _ in range(number):
            await create(server, tenant)

    assert await counts(server, tenants) == [0, 1, 2, 3]
    assert most_engines() == MAX_ENGINES
    assert await stored_users() == 0


async def test_concurrent_requests_of_all_tenants_succeed_while_engines_are_closed(
    tenants: Any, app: FastAPI, server: AsyncClient, most_engines: Callable[[], int]
) -> None:
    app.include_router(tenants.router)
    await asyncio.gather(*(create(server, tenant) for _ in range(8) for tenant in tenants.URLS))

    assert await counts(server, tenants) == [8] * 4
    assert most_engines() == MAX_ENGINES


async def test_engine_of_the_least_recently_used_tenant_is_closed(
    tenants: Any, app: FastAPI, client: AsyncClient
) -> None:
    app.include_router(tenants.router)
    for tenant in ("tenant0", "tenant1", "tenant0", "tenant2"):
        await client.get("/tenant-users", headers={"X-Tenant": tenant})

    assert {name for name, _, _ in live_pools()} == {"tenant tenant0", "tenant tenant2"}

    response = await client.get("/tenant-users", headers={"X-Tenant": "unknown"})
    assert problem(response)["status"] == 404
    assert engines() == MAX_ENGINES


async def test_session_in_use_commits_after_the_engine_of_its_tenant_is_closed(
    tenants: Any, app: FastAPI, server: AsyncClient
) -> None:
    app.include_router(tenants.router)
    begun, may_continue = asyncio.Event(), asyncio.Event()

    @app.post("/slow")
    async def slow(
        session: Annotated[AsyncSession, Depends(tenants.tenant_session, scope="function")],
    ) -> None:
        session.add(new_user())
        await session.flush()
        begun.set()
        await may_continue.wait()

    slowly = asyncio.create_task(server.post("/slow", headers={"X-Tenant": "tenant0"}))
    await begun.wait()
    for tenant in ("tenant1", "tenant2", "tenant3"):
        await create(server, tenant)
    may_continue.set()

    assert (await slowly).status_code == 200
    assert engines() == MAX_ENGINES
    assert await counts(server, tenants) == [1, 1, 1, 1]


@pytest.mark.postgresql
async def test_tenant_whose_server_is_down_does_not_block_other_tenants(
    tenants: Any, app: FastAPI, server: AsyncClient
) -> None:
    app.include_router(tenants.router)
    async with Proxy(tenants.URLS["tenant0"]) as proxy:
        tenants.URLS["tenant0"] = proxy.url
        await create(server, "tenant0")
        proxy.cut()
        async with asyncio.timeout(5):
            for tenant in ("tenant1", "tenant2", "tenant3"):
                await create(server, tenant)
        assert engines() == MAX_ENGINES


@pytest.fixture
async def partitions(load: Load) -> Any:
    """The example, with one row in each of the partitions for 2026 and 2027."""
    partitions = load("partitions")
    await create_tables(base.PrimaryBase)
    for year in (2026, 2027):
        await partitions.create_partition(year)
        async with session_scope() as session:
            session.add(partitions.Reading(sensor=1, taken_at=datetime(year, 5, 1, tzinfo=UTC)))
    return partitions


async def count_readings(limit: str = "10s") -> int:
    """Count the rows, with this limit for locks."""
    async with session_scope() as session:
        await session.execute(text(f"SET LOCAL lock_timeout = '{limit}'"))
        return await session.scalar(text("SELECT count(*) FROM readings")) or 0


@asynccontextmanager
async def open_reader() -> AsyncGenerator[None, None]:
    async with session_scope() as session:
        await session.execute(text("SELECT FROM readings"))
        yield


@pytest.mark.postgresql
async def test_partition_is_created_and_dropped_while_another_transaction_reads(
    partitions: Any,
) -> None:
    async with open_reader():
        async with asyncio.timeout(5):
            await partitions.create_partition(2028)
        dropping = asyncio.create_task(partitions.drop_partition(2026))
        await until_waiting("ALTER TABLE readings DETACH")
        assert await count_readings() == 1  # without the row of the partition that is detached

    await dropping
    assert await count_readings() == 1
    assert await fetch("SELECT 1 FROM pg_tables WHERE tablename = 'readings_2026'") == []


@pytest.mark.postgresql
@pytest.mark.parametrize(
    "statement",
    [
        "DROP TABLE readings_2026",
        "CREATE TABLE readings_2028 PARTITION OF readings "
        "FOR VALUES FROM ('2028-01-01Z') TO ('2029-01-01Z')",
    ],
)
async def test_create_partition_of_and_drop_table_block_new_readers(
    partitions: Any, statement: str
) -> None:
    async def execute() -> None:
        async with session_scope() as session:
            await session.execute(text(statement))

    async with open_reader():
        executing = asyncio.create_task(execute())
        await until_waiting(statement[:20])
        with pytest.raises(DBAPIError, match="lock timeout"):
            await count_readings(limit="50ms")
    await executing


@pytest.mark.postgresql
async def test_detach_that_timed_out_can_be_finalized(
    partitions: Any, environment: pytest.MonkeyPatch
) -> None:
    configure(environment, lock_timeout=0.1)
    await dispose_engines()
    async with open_reader():
        with pytest.raises(DBAPIError, match="lock timeout"):
            await partitions.drop_partition(2026)

    with pytest.raises(DBAPIError, match="already pending detach"):
        await partitions.drop_partition(2026)
    await fetch("ALTER TABLE readings DETACH PARTITION readings_2026 FINALIZE")
    await fetch("DROP TABLE readings_2026")
    assert await count_readings() == 1


@pytest.mark.postgresql
async def test_autogenerate_ignores_partitions(partitions: Any) -> None:
    def dropped(sync: Connection, /, **options: Any) -> set[str]:
        context = MigrationContext.configure(sync, opts=options)
        found = compare_metadata(context, base.PrimaryBase.metadata)
        return {table.name for change, table in found if change == "remove_table"}

    async with session_scope() as session:
        connection = await session.connection()
        shown = await connection.run_sync(dropped)
        owned = await connection.run_sync(dropped, include_object=draft.is_owned("primary"))

    assert shown - owned == {"readings_2026", "readings_2027"}
    assert "readings" not in shown
