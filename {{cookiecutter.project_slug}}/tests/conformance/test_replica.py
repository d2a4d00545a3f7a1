"""Read-only sessions use the replica. If it is down, they fail, or fall back with READ_FALLBACK."""

import asyncio
import os
from collections.abc import AsyncGenerator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path

import anyio
import pytest
from fastapi import FastAPI
from httpx2 import AsyncClient
from sqlalchemy import func, make_url, select, text
from sqlalchemy.exc import DBAPIError, OperationalError
from sqlalchemy.ext.asyncio import AsyncSession

from app import migrations
from app.core.config import get_database, variable
from app.core.db import CommitOutcomeUnknownError, dispose_engines, prepared, session_scope
from app.dependencies import ReadSessionDep, SessionDep
from app.repositories.user import UserRepository
from tests.conformance.harness.address import address
from tests.conformance.harness.fragile import Fragile, replicated
from tests.conformance.harness.proxy import Proxy
from tests.conformance.inspection import CLOSE_TIMEOUT, REPLICA_RETRY_AFTER, execute_script
from tests.conformance.support import is_unavailable
from tests.harness.connections import connect
from tests.inspection import checked_out, fetch, pid, stored_users
from tests.processes import ROOT, serving
from tests.support import (
    USERS,
    configure,
    disconnecting,
    migrate,
    new_user,
    problem,
    set_databases,
    until,
    user_values,
)

pytestmark = pytest.mark.postgresql


PASSWORD = "hidden"

# SQLSTATEs with which a replica rejects connections, and whether reads then fall back.
REFUSALS = {
    "57p03": True,  # the server is starting
    "08006": True,  # a proxy has no connection to the server
    "53300": False,  # too many connections
    "28p01": False,  # wrong password
    "3d000": False,  # no such database
}
REFUSE = """
CREATE FUNCTION refuse() RETURNS event_trigger LANGUAGE plpgsql AS $$ BEGIN
    IF session_user LIKE 'refused_%' THEN
        RAISE EXCEPTION 'refused' USING ERRCODE = upper(split_part(session_user, '_', 2));
    END IF;
END $$;
CREATE EVENT TRIGGER refuse ON login EXECUTE FUNCTION refuse();
""" + "".join(f"CREATE ROLE refused_{name} LOGIN PASSWORD '{PASSWORD}';" for name in REFUSALS)


@pytest.fixture(scope="module")
def servers() -> Iterator[Fragile]:
    """A server with a replica, shared by the tests of this file."""
    with replicated() as servers:
        migrate("primary", servers.url)
        asyncio.run(execute_script(servers.url, REFUSE))
        yield servers


@pytest.fixture
async def both(
    servers: Fragile, databases: None, environment: pytest.MonkeyPatch
) -> AsyncGenerator[Fragile, None]:
    """The primary database with its replica, which is running before and after the test."""
    set_databases(environment, {"primary": servers.url})
    configure(environment, read_database_url=servers.replica_url, pool_size=2)
    await until_replayed(servers)
    yield servers
    await dispose_engines()
    servers.start_replica()


async def until_replayed(servers: Fragile) -> None:
    """Wait until the replica has replayed everything that is committed."""
    [(written,)] = await fetch("SELECT pg_current_wal_flush_lsn()::text")
    connection = await connect(make_url(servers.replica_url))

    async def is_replayed() -> bool:
        replayed = f"SELECT pg_last_wal_replay_lsn() >= '{written}'"
        return bool(await connection.fetchval(replayed))

    await until(is_replayed)
    await connection.close()


async def is_replica(session: AsyncSession) -> bool:
    return bool(await session.scalar(text("SELECT pg_is_in_recovery()")))


async def reads_replica() -> list[bool]:
    """Use two read-only sessions, and return for each whether it reads from the replica."""
    async with session_scope(read_only=True) as one, session_scope(read_only=True) as other:
        return [await is_replica(session) for session in (one, other)]


async def create_user(client: AsyncClient) -> str:
    """Create a user and return its path."""
    response = await client.post(USERS, json=user_values())
    return f"{USERS}/{response.json()['id']}"


async def test_reads_use_the_replica_and_writes_use_the_database_itself(both: Fragile) -> None:
    async with session_scope() as session:
        assert not await is_replica(session)

    assert await reads_replica() == [True, True]


# For each value of target_session_attrs, whether the service uses the standby of the URL.
ATTRIBUTES = {
    "any": False,  # the first server, which is the primary
    "primary": False,
    "read-write": False,
    "standby": True,
    "read-only": True,
    "prefer-standby": True,
}


def several_hosts(*urls: str, attribute: str) -> str:
    """Return one URL for several servers."""
    hosts = tuple(":".join(map(str, address(make_url(url)))) for url in urls)
    query = {"host": hosts, "target_session_attrs": attribute}
    url = make_url(urls[0]).set(host=None, port=None, query=query)
    return url.render_as_string(hide_password=False)


@pytest.mark.parametrize("attribute", ATTRIBUTES)
async def test_target_session_attrs_selects_the_server_of_every_use(
    both: Fragile, client: AsyncClient, environment: pytest.MonkeyPatch, attribute: str
) -> None:
    standby = ATTRIBUTES[attribute]
    wrong_first = (both.url, both.replica_url) if standby else (both.replica_url, both.url)
    urls = wrong_first if attribute != "any" else (both.url, both.replica_url)
    set_databases(environment, {"primary": several_hosts(*urls, attribute=attribute)})
    environment.delenv(variable("primary", "read_database_url"))

    for read_only in (False, True):
        async with session_scope(read_only=read_only) as session:
            assert await is_replica(session) is standby
    with pytest.raises(DBAPIError, match="read-only"):
        async with session_scope(read_only=True) as session:
            session.add(new_user())
    assert (await client.get("/health/primary")).is_success
    assert await asyncio.to_thread(migrations.upgrade, "primary") == []
    assert is_unavailable(await client.post(USERS, json=user_values())) is standby


@pytest.mark.parametrize("attribute", ["read-write", "read-only"])
async def test_server_that_is_read_only_by_its_configuration_counts_as_read_only(
    both: Fragile, environment: pytest.MonkeyPatch, attribute: str
) -> None:
    """PostgreSQL defines these two by default_transaction_read_only, and not by recovery."""
    await execute_script(both.url, "ALTER ROLE postgres SET default_transaction_read_only = on")
    await until_replayed(both)
    set_databases(environment, {"primary": several_hosts(both.url, both.url, attribute=attribute)})
    environment.delenv(variable("primary", "read_database_url"))
    found = []
    try:
        for read_only in (False, True):
            with suppress(OperationalError):
                async with session_scope(read_only=read_only) as session:
                    found.append(await is_replica(session))
    finally:
        reset = "SET transaction_read_only = off; ALTER ROLE postgres RESET ALL"
        await execute_script(both.url, reset)

    assert found == ([False, False] if attribute == "read-only" else [])


async def test_read_sees_a_commit_that_the_replica_has_replayed(
    both: Fragile, client: AsyncClient
) -> None:
    path = await create_user(client)
    await until_replayed(both)

    assert (await client.get(path)).is_success


async def test_replica_refuses_writes(both: Fragile) -> None:
    with pytest.raises(DBAPIError, match="read-only"):
        async with session_scope(read_only=True) as session:
            session.add(new_user())


async def test_query_cancelled_by_a_replay_conflict_returns_503(
    both: Fragile, app: FastAPI, client: AsyncClient
) -> None:
    pids: list[int] = []

    @app.get("/slow")
    async def slow(session: ReadSessionDep) -> None:
        pids.append(await pid(session))
        await session.execute(text("SELECT pg_sleep(60) FROM users"))

    path = await create_user(client)
    await until_replayed(both)
    reading = asyncio.create_task(client.get("/slow"))
    observer = await connect(make_url(both.replica_url))

    async def is_active() -> bool:
        state = "SELECT state = 'active' FROM pg_stat_activity WHERE pid = any($1)"
        return bool(await observer.fetchval(state, pids))

    await until(is_active)
    async with session_scope() as session:
        await session.execute(text("LOCK users IN ACCESS EXCLUSIVE MODE"))

    assert is_unavailable(await reading)
    assert problem(await reading)["title"] == "Try again"
    assert (await client.get(path)).is_success
    await observer.close()


async def test_reads_fail_and_writes_succeed_while_the_replica_is_down(
    both: Fragile, client: AsyncClient
) -> None:
    path = await create_user(client)
    await until_replayed(both)
    assert (await client.get(path)).is_success

    both.stop_replica()
    while_down = [await client.get(path), await client.get(path)]
    path = await create_user(client)
    both.start_replica()
    await until_replayed(both)

    assert all(map(is_unavailable, while_down))
    assert (await client.get(path)).is_success


async def test_reads_fall_back_while_the_replica_is_down_and_then_return_to_it(
    both: Fragile,
    client: AsyncClient,
    environment: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    configure(environment, read_fallback=True)
    environment.setattr(REPLICA_RETRY_AFTER, 0.2)
    assert await reads_replica() == [True, True]

    both.stop_replica()
    assert (await client.get(await create_user(client))).is_success
    assert await reads_replica() == [False, False]
    with pytest.raises(DBAPIError, match="read-only"):
        async with session_scope(read_only=True) as session:
            session.add(new_user())
    both.start_replica()

    async def all_read_the_replica() -> bool:
        return all(await reads_replica())

    await until(all_read_the_replica)
    down, up = [r.getMessage() for r in caplog.records if r.name == "app.core.database.replica"]
    assert "is down, read-only sessions use the database itself" in down
    assert "is up again" in up


async def test_reads_fall_back_if_no_host_of_the_replica_is_a_standby(
    both: Fragile, environment: pytest.MonkeyPatch
) -> None:
    promoted = several_hosts(both.url, both.url, attribute="standby")
    configure(environment, read_database_url=promoted, read_fallback=True)

    assert await reads_replica() == [False, False]


UNREACHABLE = "postgresql://u:hidden@127.0.0.1:1/d"


async def test_reads_succeed_while_the_database_itself_is_down(
    both: Fragile, client: AsyncClient, environment: pytest.MonkeyPatch
) -> None:
    set_databases(environment, {"primary": UNREACHABLE})

    assert (await client.get(USERS)).is_success
    assert is_unavailable(await client.post(USERS, json=user_values()))


async def test_reads_fail_without_showing_a_password_if_replica_and_database_are_down(
    client: AsyncClient, environment: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    set_databases(environment, {"primary": UNREACHABLE})
    configure(environment, read_database_url=f"{UNREACHABLE}?sslmode=disable", read_fallback=True)

    response = await client.get(USERS)

    assert is_unavailable(response)
    assert "The replica at 127.0.0.1:1/d is down" in caplog.text
    assert "hidden" not in f"{response.text} {caplog.text}"


@asynccontextmanager
async def silent_server() -> AsyncGenerator[tuple[int, list[asyncio.StreamWriter]], None]:
    """Yield the port of a server that never responds, and the list of its connections."""
    connections: list[asyncio.StreamWriter] = []
    server = await asyncio.start_server(
        lambda _, writer: connections.append(writer), "127.0.0.1", 0
    )
    yield server.sockets[0].getsockname()[1], connections
    server.close()
    for connection in connections:
        connection.close()
        await connection.wait_closed()


async def test_only_one_read_waits_for_a_replica_that_hangs(
    databases: None, environment: pytest.MonkeyPatch
) -> None:
    async with silent_server() as (port, connections):
        hanging = f"postgresql://u:hidden@127.0.0.1:{port}/d"
        configure(environment, read_database_url=hanging, read_fallback=True, connect_timeout=0.3)

        for _ in range(3):
            assert await reads_replica() == [False, False]
        await dispose_engines()

    assert len(connections) == 1


async def test_read_after_a_cancelled_wait_for_the_replica_falls_back_at_once(
    databases: None, environment: pytest.MonkeyPatch
) -> None:
    async with silent_server() as (port, _):
        hanging = f"postgresql://u:hidden@127.0.0.1:{port}/d"
        configure(environment, read_database_url=hanging, read_fallback=True, connect_timeout=30)

        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.5):
                await reads_replica()

        async with asyncio.timeout(5):
            assert await reads_replica() == [False, False]
        await dispose_engines()


async def test_reads_fall_back_only_if_the_replica_rejects_connections_as_unavailable(
    both: Fragile, client: AsyncClient, environment: pytest.MonkeyPatch
) -> None:
    responses = {}
    for sqlstate in REFUSALS:
        url = make_url(both.replica_url).set(username=f"refused_{sqlstate}", password=PASSWORD)
        refusing = url.render_as_string(hide_password=False)
        configure(environment, read_database_url=refusing, read_fallback=True)

        response = await client.get(USERS)

        assert response.is_success != is_unavailable(response), sqlstate
        responses[sqlstate] = response.is_success

    assert responses == REFUSALS


async def test_writes_fail_until_the_name_of_a_standby_moves_to_the_primary(
    both: Fragile, client: AsyncClient, environment: pytest.MonkeyPatch
) -> None:
    async with Proxy(both.replica_url) as proxy:
        set_databases(environment, {"primary": proxy.url})
        configure(environment, pool_size=3)
        async with session_scope() as one, session_scope() as two:  # the pool then has both
            assert await is_replica(one) and await is_replica(two)  # noqa: PT018

        assert is_unavailable(await client.post(USERS, json=user_values()))

        proxy.move(both.url)
        for _ in range(3):
            assert (await client.post(USERS, json=user_values())).is_success
        await dispose_engines()


# A synchronous standby that does not respond


@pytest.fixture
async def lost_standby(
    both: Fragile, environment: pytest.MonkeyPatch
) -> AsyncGenerator[Callable[[], Awaitable[None]], None]:
    """Let each COMMIT wait for a standby that does not exist. Calling the fixture ends that."""

    async def require(standby: str) -> None:
        await fetch(f"ALTER SYSTEM SET synchronous_standby_names = '{standby}'")
        await fetch("SELECT pg_reload_conf()")

        async def is_required() -> bool:  # the server reads its configuration later
            [(value,)] = await fetch("SHOW synchronous_standby_names")
            return bool(value == standby)

        await until(is_required, 60)

    configure(environment, commit_timeout=0.3)
    await require("lost")
    yield lambda: require("")
    await require("")
    await until(nobody_is_waiting)


async def is_waiting() -> bool:
    """Return whether a COMMIT waits for the standby: its row is not visible yet."""
    return bool(await fetch("SELECT 1 FROM pg_stat_activity WHERE wait_event = 'SyncRep'"))


async def nobody_is_waiting() -> bool:
    return not await is_waiting()


async def write(session: SessionDep) -> None:
    """Add a row whose COMMIT waits. The servers of the tests do not wait for standbys by default."""
    await session.execute(text("SET LOCAL synchronous_commit = 'on'"))
    session.add(new_user())
    await session.flush()


async def test_commit_that_waits_for_a_lost_synchronous_standby_returns_503(
    app: FastAPI, client: AsyncClient, lost_standby: object
) -> None:
    app.post("/write")(write)

    response = await client.post("/write")

    assert "The outcome is unknown" in response.text
    assert await is_waiting()


async def is_cut_by_a_timeout() -> None:
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(None) as limit, ending(lambda: limit.reschedule(0)):
            await session_of_a_job()


async def is_cut_by_a_scope() -> None:
    """AnyIO cancels the task again at each `await`."""
    with anyio.CancelScope() as scope:
        async with ending(scope.cancel):
            await session_of_a_job()
    assert scope.cancelled_caught


@asynccontextmanager
async def ending(end: Callable[[], None]) -> AsyncGenerator[None, None]:
    """Call this function when a COMMIT waits."""

    async def wait() -> None:
        await until(is_waiting)
        end()

    waiting = asyncio.create_task(wait())
    yield
    await waiting


WAIT = prepared(select(func.set_config("synchronous_commit", "on", True)))


async def session_of_a_job() -> None:
    async with session_scope() as session:
        await WAIT.one(session)
        await UserRepository(session).add(user_values())  # it commits without the ORM's session


async def is_cut_after_a_stream() -> None:
    with anyio.CancelScope() as scope:
        async with ending(scope.cancel), session_scope() as session:
            many = text("SELECT n FROM generate_series(1, 1000) n")
            await (await session.stream(many.execution_options(yield_per=10))).fetchone()
            await write(session)
    assert scope.cancelled_caught


async def is_cut_by_the_end_of_its_session() -> None:
    with pytest.raises(LookupError):
        async with session_scope() as session:
            await write(session)
            task = asyncio.create_task(session.commit())
            await until(is_waiting)
            raise LookupError
    await asyncio.wait([task])


async def is_cut_by_the_driver() -> None:
    url = make_url(os.environ[variable("primary")]).update_query_dict({"command_timeout": "0.5"})
    database = get_database().for_url(url).model_copy(update={"commit_timeout": 0})
    with pytest.raises(OperationalError) as error:
        async with session_scope(database) as session:
            await write(session)
    assert isinstance(error.value.orig, CommitOutcomeUnknownError)


@pytest.mark.parametrize(
    "commit",
    [
        is_cut_by_a_timeout,
        is_cut_by_a_scope,
        is_cut_after_a_stream,
        is_cut_by_the_end_of_its_session,
        is_cut_by_the_driver,
    ],
)
async def test_cancelled_commit_stays_invisible_until_a_standby_has_it(
    lost_standby: Callable[[], Awaitable[None]], commit: Callable[[], Awaitable[None]]
) -> None:
    """PostgreSQL would end its wait on a request to cancel, and make the row visible."""
    before = await stored_users()

    await commit()

    assert not checked_out()
    assert await is_waiting()
    assert await stored_users() == before
    await lost_standby()
    await until(lambda: has_stored(before + 1))


async def has_stored(users: int) -> bool:
    return await stored_users() == users


async def test_commit_of_a_client_that_disconnects_stays_invisible_until_a_standby_has_it(
    app: FastAPI, server: AsyncClient, lost_standby: Callable[[], Awaitable[None]]
) -> None:
    before = await stored_users()
    app.post("/write")(write)

    async with disconnecting(server, "POST", "/write"):
        await until(is_waiting)
    await until(lambda: not checked_out())

    assert await is_waiting()
    assert await stored_users() == before
    await lost_standby()
    await until(lambda: has_stored(before + 1))


async def test_cancelled_commit_returns_its_connection_with_the_response(
    lost_standby: Callable[[], Awaitable[None]], environment: pytest.MonkeyPatch
) -> None:
    """Until then it counts in the pool: retries cannot use up the connections of the server."""
    environment.setattr(CLOSE_TIMEOUT, 0.0)
    configure(environment, commit_timeout=0)
    committing = asyncio.create_task(session_of_a_job())
    await until(is_waiting)

    committing.cancel()
    assert await is_waiting()
    assert checked_out()
    await lost_standby()
    await asyncio.wait([committing])

    assert committing.cancelled()
    assert not checked_out()


async def test_cancelled_scope_does_not_keep_the_event_loop_busy_during_its_commit(
    lost_standby: object, environment: pytest.MonkeyPatch
) -> None:
    """AnyIO would cancel the task again in each iteration of the event loop."""
    configure(environment, commit_timeout=2)
    scope = anyio.CancelScope()

    async def job() -> None:
        with scope:
            await session_of_a_job()

    committing = asyncio.create_task(job())
    await until(is_waiting)
    scope.cancel()
    await is_waiting()
    cancellations = committing.cancelling()
    await is_waiting()

    assert committing.cancelling() == cancellations
    assert not committing.done()
    await committing


async def test_shutdown_does_not_wait_for_a_cancelled_commit(
    lost_standby: object, both: Fragile, tmp_path: Path
) -> None:
    before = await stored_users()
    url = make_url(both.url).update_query_dict({"options": "-c synchronous_commit=on"})
    settings = {
        **os.environ,
        "PYTHONPATH": str(ROOT),
        "SHUTDOWN_TIMEOUT": "1",
        variable("primary"): url.render_as_string(hide_password=False),
        variable("primary", "commit_timeout"): "0",
    }
    with serving(variables=settings, folder=tmp_path) as served:
        async with AsyncClient(base_url=served.url) as client:
            writing = asyncio.create_task(client.post(USERS, json=user_values()))
            await until(is_waiting)

            served.process.terminate()

            assert await asyncio.to_thread(served.exit_code) == 0
            await asyncio.wait([writing])
    assert await is_waiting()
    assert await stored_users() == before
