"""The kinds of databases that a test can run on: SQLite and PostgreSQL."""

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Protocol

import pytest

from app import migrations
from tests.harness.postgresql import Clone, Server
from tests.support import migrate


class Backend(Protocol):
    """The databases of one test."""

    kind: str

    def migrated(self) -> dict[str, str]:
        """Return the URL of each database, migrated to the newest revision and without rows."""

    def settings(self) -> dict[str, str]:
        """Return the other environment variables that the service needs. Call `migrated` first."""

    def new(self) -> str:
        """Return the URL of another, empty database."""

    def clean_up(self) -> None:
        """Remove the test's data. Fail the test if it left a connection open."""


class SQLite:
    """SQLite files in a temporary folder of the test."""

    kind = "sqlite"

    def __init__(self, folder: Path, templates: Path) -> None:
        self._folder = folder
        self._templates = templates
        self._number = 0

    def migrated(self) -> dict[str, str]:
        for name in migrations.databases():
            template = self._templates / name
            if not template.exists():
                migrate(name, f"sqlite:///{template}")
            shutil.copy(template, self._folder / f"{name}.db")
        return {name: f"sqlite:///{self._folder / name}.db" for name in migrations.databases()}

    def settings(self) -> dict[str, str]:
        return {}

    def new(self) -> str:
        self._number += 1
        return f"sqlite:///{self._folder}/new-{self._number}.db"

    def clean_up(self) -> None:
        """Do nothing. pytest removes the folder, and `databases` waits for open connections."""


class PostgreSQL:
    """Clones that all tests of a process share in turn, and new databases for this test only."""

    kind = "postgresql"

    def __init__(self, server: Server) -> None:
        self._server = server
        self._clones: dict[str, Clone] = {}
        self._new: list[str] = []

    def migrated(self) -> dict[str, str]:
        self._clones = {
            name: self._server.clone(name, migrate, self.kind) for name in migrations.databases()
        }
        return {name: self._server.url(clone.database) for name, clone in self._clones.items()}

    def settings(self) -> dict[str, str]:
        return {}

    def new(self) -> str:
        self._new.append(self._server.create())
        return self._server.url(self._new[-1])

    def clean_up(self) -> None:
        clones = self._clones.values()
        leaks = self._leaks([*self._new, *(clone.database for clone in clones)])
        for clone in clones:
            if leaks:
                clone.replace()
            else:
                clone.restore()
        for database in self._new:
            self._server.drop(database)
        if leaks:
            pytest.fail(
                f"the test has left connections open: {leaks}; close them or dispose of the engine"
            )

    def _leaks(self, databases: list[str]) -> list[str]:
        return self._server.connections_to(databases)


def sqlite(request: pytest.FixtureRequest) -> Backend:
    return SQLite(request.getfixturevalue("tmp_path"), request.getfixturevalue("sqlite_templates"))


def postgresql(request: pytest.FixtureRequest) -> Backend:
    return PostgreSQL(request.getfixturevalue("postgresql"))


# The kinds of databases that --db accepts, each with the function that creates its backend.
# A plugin may add a kind.
KINDS: dict[str, Callable[[pytest.FixtureRequest], Backend]] = {
    SQLite.kind: sqlite,
    PostgreSQL.kind: postgresql,
}
