"""Connecting to PostgreSQL: several hosts, timeouts, TCP keepalive."""

import asyncio
import os
import socket

import pytest
from httpx2 import AsyncClient
from sqlalchemy import make_url, text

from app.core.config import variable
from app.core.db import dispose_engines, session_scope
from tests.conformance.harness.proxy import Proxy
from tests.inspection import driver
from tests.support import USERS, configure, set_databases

pytestmark = pytest.mark.postgresql


async def test_url_with_several_hosts_connects_to_the_one_that_accepts_writes(
    databases: None, environment: pytest.MonkeyPatch
) -> None:
    configure(environment, connect_timeout=0.2)
    here = os.environ[variable("primary")]
    async with Proxy(here) as proxy, Proxy(here) as silent:
        silent.hold()
        hanging = make_url(silent.url)
        running = make_url(proxy.url)
        url = running.set(host=None, port=None).update_query_dict(
            {
                "host": (
                    "127.0.0.1:1",
                    f"{hanging.host}:{hanging.port}",
                    f"{running.host}:{running.port}",
                ),
                "target_session_attrs": "read-write",
            }
        )
        set_databases(environment, {"primary": url.render_as_string(hide_password=False)})

        async with session_scope() as session:
            assert await session.scalar(text("SHOW transaction_read_only")) == "off"
        await dispose_engines()


async def test_connect_timeout_returns_503_with_retry_after(
    client: AsyncClient, environment: pytest.MonkeyPatch
) -> None:
    configure(environment, connect_timeout=0.1)
    async with Proxy(os.environ[variable("primary")]) as proxy:
        proxy.hold()
        set_databases(environment, {"primary": proxy.url})

        async with asyncio.timeout(2):
            response = await client.get(USERS)

    assert (503, "1") == (response.status_code, response.headers["retry-after"])


@pytest.mark.skipif(
    not hasattr(socket, "TCP_USER_TIMEOUT"), reason="only Linux has all of these socket options"
)
async def test_keepalive_is_enabled_on_client_and_server(
    databases: None, environment: pytest.MonkeyPatch
) -> None:
    configure(environment, tcp_keepalive=10)
    async with Proxy(os.environ[variable("primary")]) as proxy:
        set_databases(environment, {"primary": proxy.url})
        async with session_scope() as session:
            client = (await driver(session))._transport.get_extra_info("socket")
            options = ("TCP_KEEPIDLE", "TCP_KEEPINTVL", "TCP_KEEPCNT", "TCP_USER_TIMEOUT")
            values = [client.getsockopt(socket.IPPROTO_TCP, getattr(socket, o)) for o in options]
            enabled = client.getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE)
            # The names and not the values: over a Unix socket, PostgreSQL shows zero for each.
            server = await session.execute(
                text(
                    "SELECT name, source FROM pg_settings "
                    "WHERE name LIKE 'tcp\\_%' AND source = 'client'"
                )
            )
            names = {row.name for row in server}
        await dispose_engines()

    assert (1, [10, 4, 3, 20_000]) == (enabled, values)
    assert names == {
        "tcp_keepalives_count",
        "tcp_keepalives_idle",
        "tcp_keepalives_interval",
        "tcp_user_timeout",
    }
