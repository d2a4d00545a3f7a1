"""Databases on the PostgreSQL of the run, for the tests of one process.

A database is migrated once for the whole run, into a template. Each process has a clone of it, whose
sessions commit as they do in production; after a test, the clone is brought back to what it was.
"""

import asyncio
import time
from collections.abc import Callable, Coroutine, Iterator
from contextlib import contextmanager, suppress
from typing import Any, TypeVar

import asyncpg
import pytest
from sqlalchemy import make_url

from tests.harness.connections import OWN, connect, quoted

Result = TypeVar("Result")
Migrate = Callable[[str, str], None]  # a database, by its name, at a URL

SECONDS_TO_CLOSE = 5.0  # in which the server must see that a test has closed its connections

# A text that differs when anything of the schema was created, altered or dropped: each such object,
# from the first number that PostgreSQL gives to one that is not its own, with its last change.
CATALOGS = (
    ("pg_attribute", "attrelid"),
    ("pg_attrdef", "oid"),
    ("pg_cast", "oid"),
    ("pg_class", "oid"),
    ("pg_collation", "oid"),
    ("pg_constraint", "oid"),
    ("pg_default_acl", "oid"),
    ("pg_description", "objoid"),
    ("pg_enum", "oid"),
    ("pg_event_trigger", "oid"),
    ("pg_extension", "oid"),
    ("pg_largeobject_metadata", "oid"),
    ("pg_namespace", "oid"),
    ("pg_operator", "oid"),
    ("pg_policy", "oid"),
    ("pg_proc", "oid"),
    ("pg_publication", "oid"),
    ("pg_rewrite", "oid"),
    ("pg_statistic_ext", "oid"),
    ("pg_trigger", "oid"),
    ("pg_type", "oid"),
)
OBJECTS = " UNION ALL ".join(
    f"SELECT concat_ws(' ', tableoid, {key}, xmin) FROM {catalog} WHERE {key} >= 16384"
    for catalog, key in CATALOGS
)
SCHEMA = f"SELECT string_agg(object, ',' ORDER BY object) FROM ({OBJECTS}) AS objects (object)"
TABLES = """
SELECT oid::regclass::text FROM pg_class
WHERE oid >= 16384 AND relkind = 'r' AND relpersistence <> 't' ORDER BY oid
"""
SEQUENCES = "SELECT oid::regclass::text FROM pg_class WHERE oid >= 16384 AND relkind = 'S'"
CONNECTIONS = """
SELECT state, query FROM pg_stat_activity
WHERE usesysid IS NOT NULL AND datname = ANY($1) AND application_name IS DISTINCT FROM $2
AND ($3 OR state <> 'idle')
"""
TERMINATE = """
SELECT pg_terminate_backend(pid) FROM pg_stat_activity
WHERE usesysid IS NOT NULL AND datname = $1
"""


class Server:
    """The server, and what this process has made on it.

    It has an event loop of its own, which runs before a test and after it, never within one.
    """

    def __init__(self, url: str, prefix: str, process: str) -> None:
        self._url = make_url(url)
        self._prefix = prefix
        self._process = process
        self._number = 0
        self._clones: dict[tuple[str, str], Clone] = {}
        self._runner = asyncio.Runner(loop_factory=asyncio.new_event_loop)
        self._connection = self.connect()

    def run(self, coroutine: Coroutine[Any, Any, Result]) -> Result:
        return self._runner.run(coroutine)

    def url(self, database: str) -> str:
        return self._url.set(database=database).render_as_string(hide_password=False)

    def connect(self, database: str | None = None) -> asyncpg.Connection:
        return self.run(connect(self._url.set(database=database) if database else self._url))

    def create(self, template: str | None = None) -> str:
        """Create a database, an empty one or one like another, and return its name."""
        self._number += 1
        name = f"{self._prefix}_{self._process}_{self._number}_test"
        like = f" TEMPLATE {quoted(template)}" if template else ""
        self._execute(f"CREATE DATABASE {quoted(name)}{like}")
        return name

    def drop(self, database: str) -> None:
        """Drop a database, whoever is connected to it."""
        # FORCE does the same and then waits in steps of 100 ms, which after every test is much.
        deadline = time.monotonic() + SECONDS_TO_CLOSE
        with suppress(asyncpg.InsufficientPrivilegeError):  # to end those of another user
            while self.run(self._connection.fetch(TERMINATE, database)):
                if time.monotonic() > deadline:
                    break
                time.sleep(0.001)
        self._execute(f"DROP DATABASE IF EXISTS {quoted(database)} WITH (FORCE)")

    def clone(self, database: str, migrate: Migrate, kind: str = "postgresql") -> "Clone":
        """Return this process's clone of a migrated database; the first call for a kind makes it."""
        if (database, kind) not in self._clones:
            self._clones[database, kind] = Clone(self, self._template(database, migrate))
        return self._clones[database, kind]

    @contextmanager
    def stranger(self, password: str) -> Iterator[str]:
        """Yield the URL of an empty database for a user of its own, who has this password."""
        database = self.create()
        user = f"{database}_user"
        literal = password.replace("'", "''")
        try:
            self._execute(f"CREATE ROLE {quoted(user)} LOGIN PASSWORD '{literal}'")
        except asyncpg.InsufficientPrivilegeError:
            pytest.skip("the user of TEST_DATABASE_URL may not create roles")
        as_owner = self.connect(database)
        self.run(as_owner.execute(f"GRANT ALL ON SCHEMA public TO {quoted(user)}"))
        self.run(as_owner.close())
        url = self._url.set(database=database, username=user, password=password)
        yield url.render_as_string(hide_password=False)
        self.connections_to([database])  # wait: to end those of another user we may have no right
        self.drop(database)
        self._execute(f"DROP ROLE {quoted(user)}")

    def connections_to(self, databases: list[str], *, idle: bool = True) -> list[str]:
        """Return what is connected to these databases, idle or not, and does not go away."""
        deadline = time.monotonic() + SECONDS_TO_CLOSE
        while True:
            others = self.run(self._connection.fetch(CONNECTIONS, databases, OWN, idle))
            if not others or time.monotonic() > deadline:
                return [f"{state}, {query}" for state, query in others]
            time.sleep(0.002)

    def close(self) -> None:
        for clone in self._clones.values():
            clone.drop()
        self.run(self._connection.close())
        self._runner.close()

    def _template(self, database: str, migrate: Migrate) -> str:
        """Return the name of a migrated database; the first process that asks for it makes it."""
        name = f"{self._prefix}_{database}_test"
        self._execute("SELECT pg_advisory_lock(hashtext($1))", name)  # the others wait
        try:
            known = "SELECT true FROM pg_database WHERE datname = $1"
            if not self.run(self._connection.fetchval(known, name)):
                half_done = self.create()
                migrate(database, self.url(half_done))
                self._execute(f"ALTER DATABASE {quoted(half_done)} RENAME TO {quoted(name)}")
        finally:
            self._execute("SELECT pg_advisory_unlock(hashtext($1))", name)
        return name

    def _execute(self, statement: str, *arguments: object) -> None:
        self.run(self._connection.execute(statement, *arguments))


class Clone:
    """A migrated database that one test after another finds as it was."""

    def __init__(self, server: Server, template: str) -> None:
        self._server = server
        self._template = template
        self._make()

    def restore(self) -> None:
        """Bring it back to what it was, or make another one.

        Rows are deleted from the tables that were empty, and sequences set back: that is enough
        after most tests, and takes a millisecond. Where it is not, because a test has changed the
        schema, or rows that a migration has written, there is another clone.
        """
        if not self._server.run(self._is_restored()):
            self.replace()

    def replace(self) -> None:
        """Make another one, whatever this one is like or somebody still does with it."""
        self.drop()
        self._make()

    def drop(self) -> None:
        self._server.run(self._connection.close())
        self._server.drop(self.database)

    def _make(self) -> None:
        self.database = self._server.create(self._template)
        self._connection = self._server.connect(self.database)
        self._server.run(self._look())

    async def _look(self) -> None:
        """Note what the database is like, and how it is brought back to that."""
        fetch = self._connection.fetch
        await self._connection.execute("SET row_security = off")
        tables = [name for (name,) in await fetch(TABLES)]
        full = [table for table in tables if await fetch(f"SELECT FROM {table} LIMIT 1")]
        empty = [table for table in tables if table not in full]
        sequences = [
            (name, *(await fetch(f"SELECT last_value, is_called FROM {name}"))[0])
            for (name,) in await fetch(SEQUENCES)
        ]

        # In one statement, as foreign keys are looked at when it ends.
        deletions = ", ".join(f"x{n} AS (DELETE FROM {table})" for n, table in enumerate(empty))
        self._restore = f"WITH {deletions} SELECT" if empty else ""
        for name, value, is_called in sequences:
            self._restore += f"; SELECT setval('{name}', {value}, {is_called})"

        # Rules, triggers and policies may do something else than to delete a row.
        rows = [f"(EXISTS (SELECT FROM {table}))::text" for table in empty]
        rows += [f"(SELECT string_agg(r::text, ',' ORDER BY r::text) FROM {t} r)" for t in full]
        self._state = f"SELECT md5(concat_ws(';', {', '.join([f'({SCHEMA})', *rows])}))"
        self._expected = await self._connection.fetchval(self._state)

    async def _is_restored(self) -> bool:
        try:
            await self._connection.execute(self._restore)
            found = await self._connection.fetchval(self._state)
        except (asyncpg.PostgresError, asyncpg.InterfaceError, OSError):
            return False
        return bool(found == self._expected)
