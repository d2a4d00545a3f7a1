"""Read-only sessions are on the replica; while it does not answer, they fail or fall back, as is set."""

import asyncio
from collections.abc import AsyncGenerator, Iterator
from contextlib import asynccontextmanager

import pytest
from fastapi import FastAPI
from httpx2 import AsyncClient, Response
from sqlalchemy import make_url, text
from sqlalchemy.exc import DBAPIError
from sqlalchemy.ext.asyncio import AsyncSession

from app.core.database import replica
from app.core.db import dispose_engines, session_scope
from app.dependencies import ReadSessionDep
from tests.conformance.harness.fragile import Fragile, replicated
from tests.conformance.harness.proxy import Proxy
from tests.harness.connections import connect
from tests.inspection import execute_script, fetch, pid
from tests.support import (
    configure,
    migrate,
    new_email,
    new_user,
    problem,
    set_databases,
    until,
)

pytestmark = pytest.mark.postgresql


PASSWORD = "hidden"

# What a replica refuses to connect with, and whether that is a reason to fall back.
REFUSALS = {
    "57p03": True,  # it is starting
    "08006": True,  # what is before it has no connection to it
    "53300": False,  # it has too many connections
    "28p01": False,  # the password is wrong
    "3d000": False,  # there is no such database
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
    """A server with a replica, for the tests of this file."""
    with replicated() as servers:
        migrate("primary", servers.url)
        asyncio.run(execute_script(servers.url, REFUSE))
        yield servers


@pytest.fixture
async def both(
    servers: Fragile, databases: None, environment: pytest.MonkeyPatch
) -> AsyncGenerator[Fragile, None]:
    """The primary database with its replica, which is running before the test and after it."""
    set_databases(environment, {"primary": servers.url})
    configure(environment, read_database_url=servers.replica_url, pool_size=2)
    await replayed(servers)
    yield servers
    await dispose_engines()
    servers.start_replica()


async def replayed(servers: Fragile) -> None:
    """Wait until the replica knows of all that is committed."""
    [(written,)] = await fetch("SELECT pg_current_wal_flush_lsn()::text")
    connection = await connect(make_url(servers.replica_url))

    async def is_known() -> bool:
        replayed = f"SELECT pg_last_wal_replay_lsn() >= '{written}'"
        return bool(await connection.fetchval(replayed))

    await until(is_known)
    await connection.close()


async def is_replica(session: AsyncSession) -> bool:
    return bool(await session.scalar(text("SELECT pg_is_in_recovery()")))


async def reads_replica() -> list[bool]:
    """Say of each pooled connection whether it is one to the replica."""
    async with session_scope(read_only=True) as one, session_scope(read_only=True) as other:
        return [await is_replica(session) for session in (one, other)]


async def create(client: AsyncClient) -> str:
    answer = await client.post("/users", json={"name": "Ada", "email": new_email()})
    return f"/users/{answer.json()['id']}"


def is_unavailable(answer: Response) -> bool:
    return (503, "1") == (answer.status_code, answer.headers.get("retry-after"))


async def test_replica_is_read_and_the_database_itself_is_written(both: Fragile) -> None:
    async with session_scope() as session:
        assert not await is_replica(session)

    assert await reads_replica() == [True, True]


async def test_what_is_committed_is_read_once_the_replica_has_replayed_it(
    both: Fragile, client: AsyncClient
) -> None:
    path = await create(client)
    await replayed(both)

    assert (await client.get(path)).is_success


async def test_write_is_refused_by_the_replica(both: Fragile) -> None:
    with pytest.raises(DBAPIError, match="read-only"):
        async with session_scope(read_only=True) as session:
            session.add(new_user())


async def test_query_that_is_in_the_way_of_a_replay_is_an_answer_to_try_again(
    both: Fragile, app: FastAPI, client: AsyncClient
) -> None:
    pids: list[int] = []

    @app.get("/slow")
    async def slow(session: ReadSessionDep) -> None:
        pids.append(await pid(session))
        await session.execute(text("SELECT pg_sleep(60) FROM users"))

    path = await create(client)
    await replayed(both)
    reading = asyncio.create_task(client.get("/slow"))
    observer = await connect(make_url(both.replica_url))

    async def is_reading() -> bool:
        state = "SELECT state = 'active' FROM pg_stat_activity WHERE pid = any($1)"
        return bool(await observer.fetchval(state, pids))

    await until(is_reading)
    async with session_scope() as session:
        await session.execute(text("LOCK users IN ACCESS EXCLUSIVE MODE"))

    assert is_unavailable(await reading)
    assert problem(await reading)["title"] == "Try again"
    assert (await client.get(path)).is_success
    await observer.close()


async def test_replica_that_is_down_fails_reads_and_no_writes_until_it_is_back(
    both: Fragile, client: AsyncClient
) -> None:
    path = await create(client)
    await replayed(both)
    assert (await client.get(path)).is_success

    both.stop_replica()
    while_down = [await client.get(path), await client.get(path)]
    path = await create(client)
    both.start_replica()
    await replayed(both)

    assert all(map(is_unavailable, while_down))
    assert (await client.get(path)).is_success


async def test_reads_fall_back_and_return(
    both: Fragile,
    client: AsyncClient,
    environment: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    configure(environment, read_fallback=True)
    environment.setattr(replica, "RETRY_AFTER", 0.2)
    assert await reads_replica() == [True, True]

    both.stop_replica()
    assert (await client.get(await create(client))).is_success
    assert await reads_replica() == [False, False]
    with pytest.raises(DBAPIError, match="read-only"):
        async with session_scope(read_only=True) as session:
            session.add(new_user())
    both.start_replica()

    async def has_returned() -> bool:
        return all(await reads_replica())

    await until(has_returned, seconds=3)
    lost, found = [r.getMessage() for r in caplog.records if r.name == "app.core.database.replica"]
    assert "does not answer, reads go to the database itself" in lost
    assert "answers again" in found


NOBODY = "postgresql://u:hidden@127.0.0.1:1/d"


async def test_reads_go_on_while_the_database_itself_is_down(
    both: Fragile, client: AsyncClient, environment: pytest.MonkeyPatch
) -> None:
    set_databases(environment, {"primary": NOBODY})

    assert (await client.get("/users")).is_success
    assert is_unavailable(await client.post("/users", json={"name": "A", "email": new_email()}))


async def test_reads_fail_where_neither_answers_and_no_password_shows(
    client: AsyncClient, environment: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    set_databases(environment, {"primary": NOBODY})
    configure(environment, read_database_url=f"{NOBODY}?sslmode=disable", read_fallback=True)

    answer = await client.get("/users")

    assert is_unavailable(answer)
    assert "The replica at 127.0.0.1:1/d does not answer" in caplog.text
    assert "hidden" not in f"{answer.text} {caplog.text}"


@asynccontextmanager
async def silence() -> AsyncGenerator[tuple[int, list[asyncio.StreamWriter]], None]:
    """Yield the port of a server that says nothing, and a list of who connects to it."""
    guests: list[asyncio.StreamWriter] = []
    server = await asyncio.start_server(lambda _, writer: guests.append(writer), "127.0.0.1", 0)
    yield server.sockets[0].getsockname()[1], guests
    server.close()
    for guest in guests:
        guest.close()
        await guest.wait_closed()


async def test_one_read_waits_for_a_replica_that_hangs_and_the_others_do_not(
    databases: None, environment: pytest.MonkeyPatch
) -> None:
    async with silence() as (port, guests):
        hanging = f"postgresql://u:hidden@127.0.0.1:{port}/d"
        configure(environment, read_database_url=hanging, read_fallback=True, connect_timeout=0.3)

        for _ in range(3):
            assert await reads_replica() == [False, False]
        await dispose_engines()

    assert len(guests) == 1


async def test_read_that_gives_up_first_tells_the_next_one_that_the_replica_hangs(
    databases: None, environment: pytest.MonkeyPatch
) -> None:
    async with silence() as (port, _):
        hanging = f"postgresql://u:hidden@127.0.0.1:{port}/d"
        configure(environment, read_database_url=hanging, read_fallback=True, connect_timeout=30)

        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.5):
                await reads_replica()

        async with asyncio.timeout(5):
            assert await reads_replica() == [False, False]
        await dispose_engines()


@pytest.mark.parametrize(("sqlstate", "falls_back"), REFUSALS.items())
async def test_replica_that_refuses_us_is_no_reason_to_fall_back_unless_it_cannot_answer(
    both: Fragile,
    client: AsyncClient,
    environment: pytest.MonkeyPatch,
    sqlstate: str,
    falls_back: bool,
) -> None:
    url = make_url(both.replica_url).set(username=f"refused_{sqlstate}", password=PASSWORD)
    refusing = url.render_as_string(hide_password=False)
    configure(environment, read_database_url=refusing, read_fallback=True)

    answer = await client.get("/users")

    assert (answer.is_success, is_unavailable(answer)) == (falls_back, not falls_back)


async def test_name_that_moves_late_from_a_standby_is_an_outage_and_no_longer(
    both: Fragile, client: AsyncClient, environment: pytest.MonkeyPatch
) -> None:
    async with Proxy(both.replica_url) as proxy:
        set_databases(environment, {"primary": proxy.url})
        configure(environment, pool_size=3)
        async with session_scope() as one, session_scope() as two:  # both are in the pool then
            assert await is_replica(one) and await is_replica(two)  # noqa: PT018

        user = {"name": "Ada", "email": new_email()}
        assert is_unavailable(await client.post("/users", json=user))

        proxy.move(both.url)
        for _ in range(3):
            assert (await client.post("/users", json=user | {"email": new_email()})).is_success
        await dispose_engines()
