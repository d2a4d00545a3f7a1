"""Writes a revision with autogenerate. If the database is SQLite, it compares with PostgreSQL instead.

    python -m tests.harness.revision DATABASE MESSAGE

SQLite does not reflect all of a model. The server is the one of the tests, with all revisions applied.
"""

import os
import sys
import tomllib
import warnings
from contextlib import ExitStack
from pathlib import Path

from alembic.config import main as alembic
from alembic.util import CommandError
from sqlalchemy.exc import DBAPIError

from app import migrations
from app.core.config import DEFAULT_DATABASE, get_settings, variable
from tests.harness.keeper import first_available
from tests.harness.postgresql import Server
from tests.harness.server import UnavailableError


def main(database: str, message: str) -> None:
    with ExitStack() as stack:
        try:
            url = migrations.database_settings(database).migration_url()
            if url.get_backend_name() == "sqlite":
                use_postgresql(stack, database)
                migrations.upgrade(database)
        except UnavailableError as error:
            if {"TEST_DATABASE_URL", "TEST_POSTGRES"} & os.environ.keys():
                sys.exit(f"error: {error}")
            sys.stderr.write(f"warning: autogenerate compares with SQLite: {error}\n")
        except (CommandError, DBAPIError) as error:
            sys.exit(f"error: {error}")
        alembic(["-n", database, "revision", "--autogenerate", f"--message={message}"])


def use_postgresql(stack: ExitStack, database: str) -> None:
    """Let the settings name a new database, which is dropped with the stack."""
    project = tomllib.loads(Path("pyproject.toml").read_text(encoding="utf-8"))
    image = project["tool"]["pytest"]["ini_options"]["postgres_image"]
    running = first_available(stack, image)
    url = running.url.render_as_string(hide_password=False)
    server = Server(url, running.prefix, "revision")
    stack.callback(server.close)
    name = server.create()
    stack.callback(server.drop, name)
    os.environ[variable(database)] = server.url(name)
    if database == DEFAULT_DATABASE:
        os.environ["DATABASE_URL"] = server.url(name)
    get_settings.cache_clear()


if __name__ == "__main__":
    warnings.simplefilter("ignore")  # of Testcontainers, and of reflection on SQLite
    main(*sys.argv[1:])
