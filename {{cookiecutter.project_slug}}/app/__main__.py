"""The command line: python -m app serve | migrate | check."""

import asyncio
import os
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from types import ModuleType
from typing import Annotated

import typer
import uvicorn
from sqlalchemy.exc import DBAPIError

from app import DESCRIPTION
from app.core.config import get_databases, get_settings
from app.core.database.capacity import warn_of_too_few_connections
from app.core.db import ConfigurationError
from app.core.process.logging import configure_logging
from app.core.process.server import run
from app.core.telemetry import lifecycle as telemetry

# pretty_exceptions_enable=False: Typer's tracebacks show local variables, which may be secrets.
cli = typer.Typer(help=DESCRIPTION, no_args_is_help=True, pretty_exceptions_enable=False)

Database = Annotated[str | None, typer.Option(help="The database; all of them by default.")]


@cli.command()
def serve(
    host: Annotated[
        str, typer.Option(help="The address; `::` is all, IPv4 and IPv6.")
    ] = "127.0.0.1",
    port: Annotated[
        int | None, typer.Option(min=0, max=65535, help="Default: the setting PORT.")
    ] = None,
    workers: Annotated[
        int | None, typer.Option(min=1, help="Processes. Default: the setting WEB_CONCURRENCY.")
    ] = None,
    root_path: Annotated[str, typer.Option(help="The path prefix that a proxy strips.")] = "",
    reload: Annotated[bool, typer.Option(help="Restart when a file changes.")] = False,
) -> None:
    """Serve HTTP requests until SIGTERM or SIGINT."""
    settings = get_settings()
    telemetry.check()
    if reload:
        os.environ["SHUTDOWN_DELAY"] = "0"  # a restart need not wait
    # After its shutdown uvicorn raises SIGTERM again: without a handler it would kill the process.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit())
    log_config = configure_logging()
    databases = get_databases()
    if settings.migrate_on_start:
        with _migrations() as migrations:
            migrations.upgrade_all()
    workers = workers or settings.web_concurrency
    asyncio.run(warn_of_too_few_connections(databases, workers))
    # Imported on demand: FastAPI would be a quarter of all that `migrate` imports.
    from app.core.web.request_limits import RequestLimitsProtocol  # noqa: PLC0415

    run(
        uvicorn.Config(
            "app.main:create_app",
            factory=True,
            http=RequestLimitsProtocol,
            host=host,
            port=settings.port if port is None else port,
            workers=workers,
            root_path=root_path,
            reload=reload,
            access_log=False,  # RequestLoggingMiddleware logs requests
            log_config=log_config,
            forwarded_allow_ips=settings.forwarded_allow_ips,
            # uvicorn counts the connection of the request itself, too.
            limit_concurrency=settings.limit_concurrency + 1
            if settings.limit_concurrency
            else None,
            timeout_graceful_shutdown=settings.shutdown_timeout,
            timeout_keep_alive=settings.keep_alive_timeout,
        )
    )


@cli.command()
def migrate(
    database: Database = None,
    sql: Annotated[
        bool, typer.Option("--sql", help="Print the SQL instead of running it.")
    ] = False,
) -> None:
    """Upgrade databases to their newest revision."""
    with _migrations() as migrations:
        for name in _names(migrations, database):
            if sql:
                typer.echo(f"-- {_label(migrations, name)}")
                migrations.write_sql(name)
            else:
                count = _count(migrations.upgrade(name), "applied") or "nothing to do"
                typer.echo(f"{_label(migrations, name)}: {count}")


@cli.command()
def check(database: Database = None) -> None:
    """List pending revisions; exit with 1 if there are any."""
    behind = False
    with _migrations() as migrations:
        for name in _names(migrations, database):
            revisions = migrations.pending(name)
            behind = behind or bool(revisions)
            count = _count(revisions, "pending") or "up to date"
            typer.echo(f"{_label(migrations, name)}: {count}")
    raise typer.Exit(code=1 if behind else 0)


def main() -> None:
    """Run the command line. A wrong setting is reported in one sentence, without a traceback."""
    try:
        cli()
    except ConfigurationError as error:
        sys.exit(f"error: {error}")


@contextmanager
def _migrations() -> Iterator[ModuleType]:
    """Import Alembic on demand: it would be a fifth of all that `serve` imports."""
    from alembic.util import CommandError  # noqa: PLC0415

    from app import migrations  # noqa: PLC0415

    try:
        yield migrations
    except CommandError as error:
        sys.exit(f"error: {error}")
    except DBAPIError as error:
        statement = error.statement or "COMMIT"
        sys.exit(f"error: a migration statement failed: {error.orig} [{statement}]")


def _names(migrations: ModuleType, database: str | None) -> list[str]:
    names: list[str] = migrations.databases()
    if database is None:
        return names
    if database not in names:
        sys.exit(f"error: no database {database!r} has migrations; these have: {', '.join(names)}")
    return [database]


def _label(migrations: ModuleType, database: str) -> str:
    """Return the name and the URL of a database, without the password."""
    url = migrations.database_settings(database).migration_url()
    address = url.set(drivername=url.get_backend_name(), query={})
    return f"{database} ({address.render_as_string(hide_password=True)})"


def _count(revisions: list[str], what: str) -> str:
    return f"{len(revisions)} {what}: {', '.join(revisions)}" if revisions else ""


if __name__ == "__main__":
    main()
