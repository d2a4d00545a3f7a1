"""Writes a revision with autogenerate. If the database is SQLite, it compares with PostgreSQL instead.

    python -m tests.harness.revision DATABASE MESSAGE

SQLite cannot reflect everything that a model may have: indexes on expressions, comments, operator
classes. The server is the one of the tests; the database is new, and all revisions are applied to it.
"""

import os
import sys
import tomllib
import warnings
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

from alembic.config import main as alembic
from alembic.util import CommandError
from sqlalchemy.exc import DBAPIError

from app import migrations
from app.core.config import DEFAULT_DATABASE, get_settings, variable
from tests.harness.keeper import first_available
from tests.harness.postgresql import Server
from tests.harness.server import UnavailableError

PROJECT = Path(__file__).parents[2] / "pyproject.toml"


def main(database: str, message: str) -> None:
    """Write the revision, or exit with a reason."""
    with ExitStack() as stack:
        try:
            url = migrations.database_settings(database).migration_url()
            if url.get_backend_name() == "sqlite":
                stack.enter_context(_postgresql(database))
                migrations.upgrade(database)
        except UnavailableError as error:
            if {"TEST_DATABASE_URL", "TEST_POSTGRES"} & os.environ.keys():
                sys.exit(f"error: {error}")
            sys.stderr.write(f"warning: autogenerate compares with SQLite: {error}\n")
        except (CommandError, DBAPIError) as error:
            sys.exit(f"error: {error}")
        alembic(["-n", database, "revision", "--autogenerate", f"--message={message}"])


@contextmanager
def _postgresql(database: str) -> Iterator[None]:
    """Let the settings name a new PostgreSQL database until the end of the block."""
    tests = tomllib.loads(PROJECT.read_text(encoding="utf-8"))["tool"]["pytest"]["ini_options"]
    with ExitStack() as stack:
        running = first_available(stack, tests["postgres_image"])
        url = running.url.render_as_string(hide_password=False)
        server = Server(url, running.prefix, "revision")
        stack.callback(server.close)
        name = server.create()
        stack.callback(server.drop, name)
        os.environ[variable(database)] = server.url(name)
        if database == DEFAULT_DATABASE:
            os.environ["DATABASE_URL"] = server.url(name)
        get_settings.cache_clear()
        yield


if __name__ == "__main__":
    warnings.simplefilter("ignore")  # of Testcontainers, and of reflection on SQLite
    main(*sys.argv[1:])
