"""What docs/databases.md shows holds through crashes, races and evictions."""

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
from app.models import User, base
from tests.conformance.harness.proxy import Proxy
from tests.docs.conftest import Load
from tests.harness.backends import Backend
from tests.inspection import fetch, kill, stored_users, until_waiting
from tests.support import configure, create_tables, new_email, new_user, problem


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
    """Count what the receiver has done."""
    async with session_scope() as session:
        return await session.scalar(select(func.count(outbox.Contact.id))) or 0


async def test_message_of_a_change_that_is_rolled_back_is_not_sent(outbox: Any) -> None:
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


async def test_ids_of_messages_that_are_gone_are_not_used_again(outbox: Any) -> None:
    broker = Broker()
    for name in ("Ada", "Grace"):
        await write(outbox, name)
        await outbox.relay(broker.deliver)

    assert len({message.id for message in broker}) == 2


async def fail() -> None:
    raise ConnectionResetError


async def leave() -> None:
    raise asyncio.CancelledError


async def lose_the_connection() -> None:
    """Let the server close the connection on which the relay has its transaction."""
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

    assert broker.names == ["Ada", "Ada", "Grace"]  # nothing was sent after the crash
    assert await contacts(outbox) == 2


@pytest.mark.parametrize("crash", [fail, leave])
async def test_message_is_sent_again_after_a_crash_and_received_once(
    outbox: Any, crash: Callable[[], Awaitable[None]]
) -> None:
    await send_again_after(crash, outbox)


@pytest.mark.postgresql
async def test_message_is_sent_again_after_a_lost_connection_and_received_once(outbox: Any) -> None:
    await send_again_after(lose_the_connection, outbox)


@pytest.mark.postgresql
async def test_batch_may_be_longer_than_the_server_waits_for_a_statement(
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
async def test_order_of_numbers_is_that_of_commits_under_a_lock(
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


async def test_message_that_is_received_twice_at_once_counts_once(outbox: Any) -> None:
    broker = Broker()
    await write(outbox, "Ada")
    await outbox.relay(broker.deliver)
    [message] = broker

    await asyncio.gather(*(outbox.receive(message) for _ in range(5)))

    assert await contacts(outbox) == 1


async def test_two_relays_at_once_send_each_message_once(backend: Backend, outbox: Any) -> None:
    """On PostgreSQL the second passes by what the first is sending; on SQLite it waits."""
    broker, sending, go_on = Broker(), asyncio.Event(), asyncio.Event()
    await write(outbox, "1", "2", "3", "4")

    async def deliver_slowly(message: Any) -> None:
        sending.set()
        await go_on.wait()
        await broker.deliver(message)

    first = asyncio.create_task(outbox.relay(deliver_slowly, most=2))
    await sending.wait()
    second = asyncio.create_task(outbox.relay(broker.deliver))
    if backend.kind == "postgresql":
        async with asyncio.timeout(5):
            assert await second == 2
        assert broker.names == ["3", "4"]
    go_on.set()

    assert (2, 2) == (await first, await second)
    assert sorted(broker.names) == ["1", "2", "3", "4"]


MOST = 2


@pytest.fixture
def tenants(load: Load, backend: Backend) -> Any:
    """The snippet with five tenants, whose databases are migrated."""
    tenants = load("a database per tenant")
    tenants.URLS |= {f"tenant{number}": backend.new() for number in range(5)}
    tenants.tenants.migrate()
    return tenants


def engines() -> int:
    """Count the engines of tenants."""
    return sum(name.startswith("tenant") for name, _, _ in live_pools())


@pytest.fixture
async def most_engines() -> AsyncGenerator[Callable[[], int], None]:
    """Return the most engines of tenants that there were at any moment."""
    seen = [0]

    async def watch() -> None:
        while True:
            seen[0] = max(seen[0], engines())
            await asyncio.sleep(0)

    watching = asyncio.create_task(watch())
    yield lambda: seen[0]
    watching.cancel()
    await asyncio.wait([watching])


async def create(server: AsyncClient, tenant: str) -> None:
    user = {"name": "Ada", "email": new_email()}
    answer = await server.post("/tenant-users", json=user, headers={"X-Tenant": tenant})
    assert answer.status_code == 201, answer.text


async def counts(server: AsyncClient, tenants: Any) -> list[int]:
    answers = [
        await server.get("/tenant-users", headers={"X-Tenant": tenant}) for tenant in tenants.URLS
    ]
    return [answer.json() for answer in answers]


async def test_tenants_have_their_own_data_and_engines_stay_few(
    tenants: Any, app: FastAPI, server: AsyncClient, most_engines: Callable[[], int]
) -> None:
    app.include_router(tenants.router)
    for number, tenant in enumerate(tenants.URLS):
        for _ in range(number):
            await create(server, tenant)

    assert await counts(server, tenants) == [0, 1, 2, 3, 4]
    assert most_engines() == MOST
    assert await stored_users() == 0


async def test_requests_of_all_tenants_at_once_succeed_while_engines_are_closed(
    tenants: Any, app: FastAPI, server: AsyncClient, most_engines: Callable[[], int]
) -> None:
    app.include_router(tenants.router)
    await asyncio.gather(*(create(server, tenant) for _ in range(8) for tenant in tenants.URLS))

    assert await counts(server, tenants) == [8] * 5
    assert most_engines() == MOST


async def test_tenant_that_was_used_least_recently_goes(
    tenants: Any, app: FastAPI, client: AsyncClient
) -> None:
    app.include_router(tenants.router)
    for tenant in ("tenant0", "tenant1", "tenant0", "tenant2"):
        await client.get("/tenant-users", headers={"X-Tenant": tenant})

    assert {name for name, _, _ in live_pools()} == {"tenant tenant0", "tenant tenant2"}


async def test_session_in_use_outlives_the_engine_of_its_tenant(
    tenants: Any, app: FastAPI, server: AsyncClient
) -> None:
    app.include_router(tenants.router)
    begun, go_on = asyncio.Event(), asyncio.Event()

    @app.post("/slow")
    async def slow(
        session: Annotated[AsyncSession, Depends(tenants.tenant_session, scope="function")],
    ) -> None:
        session.add(new_user())
        await session.flush()
        begun.set()
        await go_on.wait()

    slowly = asyncio.create_task(server.post("/slow", headers={"X-Tenant": "tenant0"}))
    await begun.wait()
    for tenant in ("tenant1", "tenant2", "tenant3"):
        await create(server, tenant)
    go_on.set()

    assert (await slowly).status_code == 200
    assert engines() == MOST
    assert await counts(server, tenants) == [1, 1, 1, 1, 0]


@pytest.mark.postgresql
async def test_tenant_whose_server_is_gone_holds_up_no_other(
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
        assert engines() == MOST


async def test_tenant_that_nobody_knows_is_not_found(
    tenants: Any, app: FastAPI, client: AsyncClient
) -> None:
    app.include_router(tenants.router)
    answer = await client.get("/tenant-users", headers={"X-Tenant": "nobody"})

    assert problem(answer)["status"] == 404
    assert engines() == 0


@pytest.fixture
async def partitions(load: Load) -> Any:
    """The snippet, with a partition for 2026 and one for 2027, each with a row."""
    partitions = load("partitions")
    await create_tables(base.PrimaryBase)
    for year in (2026, 2027):
        await partitions.create_partition(year)
        async with session_scope() as session:
            session.add(partitions.Reading(sensor=1, taken_at=datetime(year, 5, 1, tzinfo=UTC)))
    return partitions


async def read(limit: str = "10s") -> int:
    """Count the readings, as a request does."""
    async with session_scope() as session:
        await session.execute(text(f"SET LOCAL lock_timeout = '{limit}'"))
        return await session.scalar(text("SELECT count(*) FROM readings")) or 0


@asynccontextmanager
async def reader_that_stays() -> AsyncGenerator[None, None]:
    async with session_scope() as session:
        await session.execute(text("SELECT FROM readings"))
        yield


@pytest.mark.postgresql
async def test_partition_is_created_and_dropped_while_readers_go_on(partitions: Any) -> None:
    async with reader_that_stays():
        async with asyncio.timeout(5):
            await partitions.create_partition(2028)
        dropping = asyncio.create_task(partitions.drop_partition(2026))
        await until_waiting("ALTER TABLE readings DETACH")
        assert await read() == 1  # of the partition that goes, nothing any more

    await dropping
    assert await read() == 1
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
async def test_obvious_statement_on_a_partition_lets_readers_queue(
    partitions: Any, statement: str
) -> None:
    async def execute() -> None:
        async with session_scope() as session:
            await session.execute(text(statement))

    async with reader_that_stays():
        executing = asyncio.create_task(execute())
        await until_waiting(statement[:20])
        with pytest.raises(DBAPIError, match="lock timeout"):
            await read(limit="50ms")
    await executing


@pytest.mark.postgresql
async def test_detach_that_gave_up_is_finalized(
    partitions: Any, environment: pytest.MonkeyPatch
) -> None:
    configure(environment, lock_timeout=0.1)
    await dispose_engines()
    async with reader_that_stays():
        with pytest.raises(DBAPIError, match="lock timeout"):
            await partitions.drop_partition(2026)

    with pytest.raises(DBAPIError, match="already pending detach"):
        await partitions.drop_partition(2026)
    await fetch("ALTER TABLE readings DETACH PARTITION readings_2026 FINALIZE")
    await fetch("DROP TABLE readings_2026")
    assert await read() == 1


@pytest.mark.postgresql
async def test_autogenerate_would_drop_partitions_that_are_not_hidden(partitions: Any) -> None:
    def dropped(sync: Connection, /, **options: Any) -> set[str]:
        context = MigrationContext.configure(sync, opts=options)
        found = compare_metadata(context, base.PrimaryBase.metadata)
        return {table.name for what, table in found if what == "remove_table"}

    async with session_scope() as session:
        connection = await session.connection()
        shown = await connection.run_sync(dropped)
        hidden = await connection.run_sync(dropped, include_name=partitions.include_name)

    assert shown - hidden == {"readings_2026", "readings_2027"}
    assert "readings" not in shown
