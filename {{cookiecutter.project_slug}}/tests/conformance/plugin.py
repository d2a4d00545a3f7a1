"""pytest on PostgreSQL through PgBouncer: --db=pgbouncer and @pytest.mark.pgbouncer.

Tests of the routes also run through PgBouncer, if it is on the PATH.
"""

import os
from collections.abc import Iterator

import pytest

from app.core.config import variable
from tests.conformance.harness.pgbouncer import (
    PgBouncer,
    find_pgbouncer,
    pgbouncer_before,
    pgbouncer_name,
)
from tests.harness.backends import KINDS, Backend, PostgreSQL
from tests.harness.postgresql import Server

NO_PGBOUNCER = "not on PATH, so its tests are skipped: install PgBouncer"


class ThroughPgBouncer(PostgreSQL):
    """Clones that the service uses through PgBouncer. Migrations connect to the server directly."""

    kind = "pgbouncer"

    def __init__(self, server: Server, pgbouncer: PgBouncer) -> None:
        super().__init__(server)
        self._pgbouncer = pgbouncer

    def migrated(self) -> dict[str, str]:
        self._direct = super().migrated()
        return {name: self._pgbouncer.url(c.database) for name, c in self._clones.items()}

    def settings(self) -> dict[str, str]:
        pgbouncer = {variable(name, "pgbouncer"): "true" for name in self._direct}
        direct = {
            variable(name, "migration_database_url"): url for name, url in self._direct.items()
        }
        return pgbouncer | direct

    def _leaks(self, databases: list[str]) -> list[str]:
        """Return the connections in a transaction. PgBouncer keeps idle connections open."""
        return self._server.connections_to(databases, idle=False)


def through_pgbouncer(request: pytest.FixtureRequest) -> Backend:
    return ThroughPgBouncer(*map(request.getfixturevalue, ("postgresql", "pgbouncer")))


KINDS[ThroughPgBouncer.kind] = through_pgbouncer


def pytest_configure(config: pytest.Config) -> None:
    load = "load: many clients, or a server that crashes; half a minute in total"
    config.addinivalue_line("markers", load)
    required = os.environ.get("REQUIRE_PGBOUNCER")
    if required and _uses_pgbouncer(config) and not find_pgbouncer():
        raise pytest.UsageError(
            "REQUIRE_PGBOUNCER is set, but PgBouncer is not on PATH: install PgBouncer"
        )


@pytest.hookimpl(trylast=True)
def pytest_report_header(config: pytest.Config) -> list[str]:
    if not _uses_pgbouncer(config):
        return []
    return [f"pgbouncer: {pgbouncer_name() if find_pgbouncer() else NO_PGBOUNCER}"]


def _uses_pgbouncer(config: pytest.Config) -> bool:
    return config.getoption("db") in {None, ThroughPgBouncer.kind}


@pytest.fixture(scope="session")
def pgbouncer(postgresql: Server) -> Iterator[PgBouncer]:
    """A PgBouncer in front of the server, for the tests of this process."""
    if not find_pgbouncer():
        pytest.skip(f"PgBouncer is {NO_PGBOUNCER}")
    with pgbouncer_before(postgresql) as pgbouncer:
        yield pgbouncer
