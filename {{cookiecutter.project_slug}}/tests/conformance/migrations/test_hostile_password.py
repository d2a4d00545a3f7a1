"""Migrations with a password whose characters are special in URLs, ini files and format strings."""

import asyncio
import os
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from shlex import quote

import asyncpg
import pytest
from sqlalchemy import make_url

from app import migrations
from app.core.config import get_settings, variable
from app.core.db import dispose_engines, session_scope
from tests.conformance.harness.address import address
from tests.conformance.processes import ALEMBIC, APP, run_all
from tests.harness.connections import quote_identifier
from tests.harness.postgresql import Server
from tests.inspection import stored_users
from tests.support import new_user, set_databases

ROOT = Path(__file__).parents[3]
PASSWORD = "p%40:/?#&ü'\"\\ $x"


@contextmanager
def database_of_new_user(server: Server) -> Iterator[str]:
    """Yield the URL of an empty database with a new user that has this password."""
    database = server.create()
    user = quote_identifier(f"{database}_user")
    literal = PASSWORD.replace("'", "''")
    connection = server.connect(database)
    try:
        server.run(connection.execute(f"CREATE ROLE {user} LOGIN PASSWORD '{literal}'"))
    except asyncpg.InsufficientPrivilegeError:
        pytest.skip(
            "the user of TEST_DATABASE_URL may not create roles: run ALTER USER … CREATEROLE"
        )
    server.run(connection.execute(f"GRANT ALL ON SCHEMA public TO {user}"))
    server.run(connection.close())
    url = make_url(server.url(database)).set(username=f"{database}_user", password=PASSWORD)
    yield url.render_as_string(hide_password=False)
    server.connections_to([database])  # wait: this user may not be allowed to close them
    server.drop(database)
    connection = server.connect()
    server.run(connection.execute(f"DROP ROLE {user}"))
    server.run(connection.close())


@pytest.fixture(params=["url", "parts"])
def hostile(
    request: pytest.FixtureRequest, postgresql: Server, environment: pytest.MonkeyPatch
) -> Iterator[None]:
    """The primary database, as a user with this password. Configured by URL, or in parts."""
    with database_of_new_user(postgresql) as text:
        if request.param == "url":
            set_databases(environment, {"primary": text})
        else:
            url = make_url(text)
            host, port = address(url)
            parts = {
                "host": host,
                "port": port,
                "username": url.username,
                "password": PASSWORD,
                "dbname": url.database,
            }
            for name, value in parts.items():
                environment.setenv(variable("primary", name), str(value))
            get_settings.cache_clear()
        yield


@pytest.mark.postgresql
def test_special_characters_in_a_password_work_and_are_not_shown(
    hostile: None, tmp_path: Path
) -> None:
    variables = {**os.environ, "PYTHONPATH": str(ROOT)}  # in a folder without a .env
    run = partial(run_all, variables=variables, folder=tmp_path)
    alembic = f"-c {quote(str(ROOT))}/alembic.ini -n primary"
    migrated, error = run(APP, "migrate --database primary", "check --database primary")
    outputs, other_error = run(ALEMBIC, f"{alembic} check", f"{alembic} upgrade head --sql")
    output = "\n".join([*migrated, error, *outputs, other_error])

    async def write() -> int:
        async with session_scope() as session:
            session.add(new_user())
        await dispose_engines()
        return await stored_users()

    assert asyncio.run(write()) == 1
    assert migrations.pending("primary") == []
    assert ["0", "0"] == [text.splitlines()[-1] for text in migrated], output
    assert "exit code" not in output
    assert "p%" not in output
