"""READ_FALLBACK: read-only sessions use the database itself while their replica is unavailable.

The replica of these tests is a port that closes every connection.
"""

import asyncio
import os
from collections.abc import AsyncGenerator

import pytest
from sqlalchemy import make_url, text
from sqlalchemy.exc import DBAPIError, OperationalError

from app.core.config import variable
from app.core.database import replica
from app.core.db import dispose_engines, session_scope
from tests.inspection import pid, stored_users
from tests.support import configure, new_user, until

pytestmark = pytest.mark.postgresql


class DeadReplica:
    """A server that closes each connection at once, and counts the attempts."""

    attempts = 0
    url = ""

    def refuse(self, _: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.attempts += 1
        writer.close()


@pytest.fixture
async def dead_replica(
    databases: None, environment: pytest.MonkeyPatch
) -> AsyncGenerator[DeadReplica, None]:
    """The replica of the primary database, which is unavailable."""
    dead = DeadReplica()
    server = await asyncio.start_server(dead.refuse, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    dead.url = f"postgresql://user:hidden@127.0.0.1:{port}/d?sslmode=disable"
    configure(environment, read_database_url=dead.url, read_fallback=True, pool_size=2)
    yield dead
    server.close()
    await dispose_engines()


async def read_twice() -> None:
    """Read on two connections at the same time."""
    async with session_scope(read_only=True) as one, session_scope(read_only=True) as other:
        assert await pid(one) != await pid(other)


async def test_reads_fail_where_no_fallback_is_configured(
    dead_replica: DeadReplica, environment: pytest.MonkeyPatch
) -> None:
    configure(environment, read_fallback=False)

    with pytest.raises(OperationalError):
        await read_twice()
    async with session_scope() as session:  # writes go on
        session.add(new_user())
    assert await stored_users() == 1


async def test_one_read_waits_for_the_replica_and_the_others_go_to_the_database(
    dead_replica: DeadReplica, caplog: pytest.LogCaptureFixture
) -> None:
    await read_twice()
    await read_twice()

    assert dead_replica.attempts == 1
    assert [record.levelname for record in caplog.records] == ["WARNING"]
    assert "hidden" not in caplog.text


async def test_replica_is_tried_again(
    dead_replica: DeadReplica, environment: pytest.MonkeyPatch
) -> None:
    """A connection to the database itself is used for RETRY_AFTER seconds at most."""
    environment.setattr(replica, "RETRY_AFTER", 0.5)

    async def is_tried_again() -> bool:
        async with session_scope(read_only=True) as session:
            await session.execute(text("SELECT * FROM users"))
        return dead_replica.attempts == 2

    await until(is_tried_again)


async def test_writes_are_refused_where_reads_fall_back_to(dead_replica: DeadReplica) -> None:
    with pytest.raises(DBAPIError, match="read-only"):
        async with session_scope(read_only=True) as session:
            session.add(new_user())

    assert await stored_users() == 0


async def test_replica_that_refuses_the_login_is_an_error_and_no_reason_to_fall_back(
    databases: None, environment: pytest.MonkeyPatch
) -> None:
    wrong = make_url(os.environ[variable("primary")]).set(database="nowhere_test")
    url = wrong.render_as_string(hide_password=False)
    configure(environment, read_database_url=url, read_fallback=True)

    with pytest.raises(OperationalError, match="nowhere_test"):
        await read_twice()
