"""Migrations with a password whose characters are special in URLs, ini files and format strings."""

import asyncio
import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import asyncpg
import pytest
from sqlalchemy import make_url

from app import migrations
from app.core.config import get_settings, variable
from app.core.db import dispose_engines, session_scope
from tests.conformance.harness.address import address
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


def run(*command: str, folder: Path) -> str:
    """Run a module in a folder without a .env."""
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    ended = subprocess.run(
        [sys.executable, "-m", *command],
        capture_output=True,
        check=False,
        cwd=folder,
        env=environment,
        text=True,
    )
    output = ended.stdout + ended.stderr
    assert ended.returncode == 0, output
    return output


@pytest.mark.postgresql
def test_special_characters_in_a_password_work_and_are_not_shown(
    hostile: None, tmp_path: Path
) -> None:
    alembic = ("alembic", "-c", f"{ROOT}/alembic.ini", "-n", "primary")
    output = run("app", "migrate", "--database", "primary", folder=tmp_path)
    output += run(*alembic, "check", folder=tmp_path)
    output += run(*alembic, "upgrade", "head", "--sql", folder=tmp_path)
    output += run("app", "check", "--database", "primary", folder=tmp_path)

    async def write() -> int:
        async with session_scope() as session:
            session.add(new_user())
        await dispose_engines()
        return await stored_users()

    assert asyncio.run(write()) == 1
    assert migrations.pending("primary") == []
    assert "p%" not in output
