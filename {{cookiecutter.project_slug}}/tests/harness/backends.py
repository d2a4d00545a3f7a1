"""The kinds of databases, as one test sees them."""

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Protocol

import pytest

from app import migrations
from tests.harness.postgresql import Clone, Server
from tests.support import migrate


class Backend(Protocol):
    """A kind of database, for one test."""

    kind: str

    def migrated(self) -> dict[str, str]:
        """Return the URL of each database, at its newest revision and without rows."""

    def settings(self) -> dict[str, str]:
        """Return what else must be set, once they are migrated: the variables and their values."""

    def new(self) -> str:
        """Return the URL of one more database, an empty one."""

    def end(self) -> None:
        """Remove what the test has left. It fails if that holds an open connection."""


class SQLite:
    """Files in a folder of the test's own."""

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

    def end(self) -> None:
        """Do nothing: pytest removes the folder, and its connections are threads of this process."""


class PostgreSQL:
    """Clones that the tests of a process have in turn, and databases that only this test has."""

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

    def end(self) -> None:
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
            pytest.fail(f"the test has left connections open: {leaks}")

    def _leaks(self, databases: list[str]) -> list[str]:
        return self._server.connections_to(databases)


def sqlite(request: pytest.FixtureRequest) -> Backend:
    return SQLite(request.getfixturevalue("tmp_path"), request.getfixturevalue("sqlite_templates"))


def postgresql(request: pytest.FixtureRequest) -> Backend:
    return PostgreSQL(request.getfixturevalue("postgresql"))


# Each kind of database that --db accepts, and how a test gets its backend. A plugin may add a kind.
KINDS: dict[str, Callable[[pytest.FixtureRequest], Backend]] = {
    SQLite.kind: sqlite,
    PostgreSQL.kind: postgresql,
}
