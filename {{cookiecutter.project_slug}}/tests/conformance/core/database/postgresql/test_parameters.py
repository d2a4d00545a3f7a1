"""Every parameter of a PostgreSQL URL that the service accepts has its effect.

Those about TLS and passwords: test_tls.py. target_session_attrs: tests/conformance/test_replica.py.
"""

import asyncio
import os
from pathlib import Path

import pytest
from sqlalchemy import make_url, text
from sqlalchemy.exc import OperationalError
from sqlalchemy.ext.asyncio import AsyncSession

from app.core.config import get_settings, variable
from app.core.database import libpq
from app.core.db import ConfigurationError, dispose_engines, session_scope
from tests.conformance.core.database.postgresql import test_tls
from tests.conformance.harness.address import address
from tests.conformance.harness.proxy import Proxy
from tests.inspection import driver
from tests.support import configure, set_databases

pytestmark = pytest.mark.postgresql

# Statements that show the effect of a parameter.
SHOWN = {
    "application_name=ours": ("application_name", "ours"),
    "channel_binding=prefer": ("client_encoding", "UTF8"),  # has no effect, and is no error
    "client_encoding=utf-8": ("client_encoding", "UTF8"),
    "dsn=postgresql://?application_name=from-dsn": ("application_name", "from-dsn"),
    "options=-csearch_path%3Dbilling": ("search_path", "billing"),
}

# Whether a statement of asyncpg, and one of SQLAlchemy, stays prepared.
PREPARED = {
    "": (True, True),
    "statement_cache_size=0": (False, False),
    "max_cacheable_statement_size=5": (False, True),
    "prepared_statement_cache_size=0": (True, False),
}

# Without a Kerberos server, and without waiting, only the arguments that asyncpg got can be tested.
ARRIVES = {
    "gsslib=sspi": "sspi",
    "krbsrvname=ours": "ours",
    "max_cached_statement_lifetime=7": 7,
}

DIRECT = ("direct_tls=true&sslmode=require", "sslnegotiation=direct&sslmode=require")
TIMEOUTS = ("timeout=0.1", "connect_timeout=1")

PROVEN_ELSEWHERE = {"target_session_attrs"}


def test_every_parameter_has_a_test() -> None:
    tls = [case.query for case in (*test_tls.CASES, *test_tls.WITH_SYSTEM_CAS)]
    here = [*SHOWN, *PREPARED, *ARRIVES, *DIRECT, *TIMEOUTS, "command_timeout=1", "host=&port="]
    proven = {part.partition("=")[0] for query in here + tls for part in query.split("&")} - {""}

    accepted = {*libpq.SERVERS, *libpq.FROM_DSN, *libpq.TYPES, *libpq.TRANSLATIONS}
    assert proven | PROVEN_ELSEWHERE == accepted


def use(environment: pytest.MonkeyPatch, query: str, url: str = "") -> None:
    """Add the query to the URL of the primary database."""
    parsed = make_url(url or os.environ[variable("primary")]).update_query_string(query)
    set_databases(environment, {"primary": parsed.render_as_string(hide_password=False)})


@pytest.mark.parametrize("query", SHOWN)
async def test_server_shows_the_parameter(
    databases: None, environment: pytest.MonkeyPatch, query: str
) -> None:
    name, value = SHOWN[query]
    use(environment, query)

    async with session_scope() as session:
        assert await session.scalar(text(f"SHOW {name}")) == value


@pytest.mark.parametrize("query", PREPARED)
async def test_caches_of_statements_have_the_size_of_the_parameter(
    databases: None, environment: pytest.MonkeyPatch, query: str
) -> None:
    async def is_prepared(session: AsyncSession, statement: str) -> bool:
        found = "SELECT count(*) FROM pg_prepared_statements WHERE statement = $1"
        return bool(await (await driver(session)).fetchval(found, statement))

    use(environment, query)
    async with session_scope() as session:
        await (await driver(session)).fetch("SELECT 1 AS driver")
        await session.execute(text("SELECT 1 AS toolkit"))
        await session.execute(text("SELECT 2"))

        found = [await is_prepared(session, f"SELECT 1 AS {by}") for by in ("driver", "toolkit")]

    assert tuple(found) == PREPARED[query]


@pytest.mark.parametrize("query", ARRIVES)
async def test_asyncpg_gets_the_parameter(
    databases: None, environment: pytest.MonkeyPatch, query: str
) -> None:
    name = query.partition("=")[0]
    use(environment, query)

    async with session_scope() as session:
        connection = await driver(session)
        arguments = connection._params._asdict() | connection._config._asdict()

    assert arguments[name] == ARRIVES[query]


@pytest.mark.parametrize("query", DIRECT)
async def test_direct_tls_begins_without_a_request_in_plain_text(
    environment: pytest.MonkeyPatch, query: str
) -> None:
    first = asyncio.Future[bytes]()

    async def accept(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        first.set_result(await reader.readexactly(1))
        writer.close()

    server = await asyncio.start_server(accept, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    use(environment, query, f"postgresql://u:hidden@127.0.0.1:{port}/d")
    with pytest.raises(OperationalError):
        async with session_scope() as session:
            await session.execute(text("SELECT 1"))
    server.close()

    assert await first == b"\x16"  # https://www.rfc-editor.org/rfc/rfc8446#section-5.1


@pytest.mark.parametrize("query", TIMEOUTS)
async def test_timeout_of_the_url_takes_precedence_over_the_setting(
    databases: None, environment: pytest.MonkeyPatch, query: str
) -> None:
    configure(environment, connect_timeout=3600)
    async with Proxy(os.environ[variable("primary")]) as proxy:
        proxy.hold()
        use(environment, query, proxy.url)

        with pytest.raises(OperationalError, match="TimeoutError"):
            async with session_scope() as session:
                await session.execute(text("SELECT 1"))


async def test_command_timeout_ends_a_statement(
    databases: None, environment: pytest.MonkeyPatch
) -> None:
    use(environment, "command_timeout=1")

    with pytest.raises(OperationalError, match="TimeoutError"):
        async with session_scope() as session:
            await session.execute(text("SELECT pg_sleep(60)"))


async def test_hosts_and_ports_in_lists_are_tried_in_order(
    databases: None, environment: pytest.MonkeyPatch
) -> None:
    url = make_url(os.environ[variable("primary")])
    host, port = address(url)
    servers = {"host": f"127.0.0.1,{host}", "port": f"1,{port}"}
    several = url.set(host=None, port=None, query=servers)
    set_databases(environment, {"primary": several.render_as_string(hide_password=False)})

    async with session_scope() as session:
        assert await session.scalar(text("SELECT current_database()")) == url.database
    await dispose_engines()


@pytest.mark.parametrize("query", ["host=a,b", "host=a:x&host=b:1", "host=a,b&port=1,2,3"])
def test_hosts_without_their_ports_are_refused(environment: pytest.MonkeyPatch, query: str) -> None:
    set_databases(environment, {"primary": f"postgresql://u:hidden@/d?{query}"})

    with pytest.raises(ConfigurationError, match=r"write host=a:5432&host=b:5432$") as error:
        get_settings()
    assert "hidden" not in str(error.value)


async def test_service_is_read_from_the_service_file_with_all_of_its_parameters(
    databases: None, environment: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    url = make_url(os.environ[variable("primary")])
    host, port = address(url)
    file = tmp_path / "pg_service.conf"
    file.write_text(
        f"# ours\n[ours]\nhost={host}\nport={port}\nuser={url.username}\n"
        f"password={url.password or '50%'}\ndbname={url.database}\n"
        "application_name=from-file\noptions=-c search_path=billing\nconnect_timeout=10\n"
        "[other]\nport=1\nport=2\n"
    )
    environment.setenv("PGSERVICEFILE", str(file))
    set_databases(environment, {"primary": "postgresql://?service=ours&application_name=mine"})

    async with session_scope() as session:
        assert await session.scalar(text("SELECT current_database()")) == url.database
        assert await session.scalar(text("SHOW application_name")) == "mine"
        assert await session.scalar(text("SHOW search_path")) == "billing"


async def test_service_has_the_port_of_a_host_in_the_url(
    databases: None, environment: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    url = make_url(os.environ[variable("primary")])
    file = tmp_path / "pg_service.conf"
    environment.setenv("PGSERVICEFILE", str(file))
    async with Proxy(os.environ[variable("primary")]) as proxy:
        there = make_url(proxy.url)
        file.write_text(f"[ours]\nport={there.port}\ndbname={url.database}\n")
        primary = there.set(port=None, database=None, query={"service": "ours"})
        set_databases(environment, {"primary": primary.render_as_string(hide_password=False)})

        async with session_scope() as session:
            assert await session.scalar(text("SELECT current_database()")) == url.database
        assert proxy.round_trips
        await dispose_engines()


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, r"service='ours' is not in .+: add it there, or set PGSERVICEFILE$"),
        ("[other]\nhost=hidden\n", r"service='ours' is not in .+: add it there, or set PGS"),
        ("[ours]\nhidden\n", r"pg_service.conf cannot be read: each line is \[name\] or key=value"),
        ("[ours]\npassword=\udcff", r"pg_service.conf cannot be read: each line is .+ in UTF-8$"),
        ("password=hidden\n", r"pg_service.conf cannot be read: each line is"),
        ("[ours]\nkeepalives=1\npassword=hidden", r"the parameter 'keepalives', which asyncpg"),
    ],
)
def test_service_that_is_missing_or_cannot_be_used_is_refused_at_the_start(
    environment: pytest.MonkeyPatch, tmp_path: Path, content: str | None, message: str
) -> None:
    file = tmp_path / "pg_service.conf"
    if content is not None:
        file.write_bytes(content.encode(errors="surrogateescape"))
    environment.setenv("PGSERVICEFILE", str(file))
    set_databases(environment, {"primary": "postgresql://?service=ours"})

    with pytest.raises(ConfigurationError, match=message) as error:
        get_settings()
    assert "hidden" not in str(error.value)
