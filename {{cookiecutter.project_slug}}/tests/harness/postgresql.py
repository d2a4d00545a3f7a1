"""Databases on the PostgreSQL server of the run, for the tests of one process.

Each database is migrated once per run, into a template database. Each process has a clone of the
template. Sessions commit to the clone as they do in production. After each test the clone is restored.
"""

import asyncio
import time
from collections.abc import Callable, Coroutine
from contextlib import suppress
from typing import Any, TypeVar

import asyncpg
from sqlalchemy import make_url

from app.core.database.postgresql._connection import BROKEN
from tests.harness.connections import APPLICATION_NAME, connect, quote_identifier

Result = TypeVar("Result")
Migrate = Callable[[str, str], None]  # arguments: name of the database, URL

SECONDS_TO_CLOSE = 5.0  # until the server reports a connection that a test has closed

# SCHEMA returns a text that changes when any object of the schema is created, altered or dropped.
# It lists each object with its last transaction (xmin), from 16384, the first OID that is not built in.
WITH_OID = """
pg_attrdef pg_cast pg_class pg_collation pg_constraint pg_default_acl pg_enum pg_event_trigger
pg_extension pg_largeobject_metadata pg_namespace pg_operator pg_policy pg_proc pg_publication
pg_rewrite pg_statistic_ext pg_trigger pg_type
"""
CATALOGS = {"pg_attribute": "attrelid", "pg_description": "objoid"}
CATALOGS |= dict.fromkeys(WITH_OID.split(), "oid")
OBJECTS = " UNION ALL ".join(
    f"SELECT concat_ws(' ', tableoid, {key}, xmin) FROM {catalog} WHERE {key} >= 16384"
    for catalog, key in CATALOGS.items()
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
    """The server, with the databases that this process has created on it.

    Its event loop runs before and after a test, never during one.
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
        """Create an empty database, or a copy of `template`, and return its name."""
        self._number += 1
        name = f"{self._prefix}_{self._process}_{self._number}_test"
        like = f" TEMPLATE {quote_identifier(template)}" if template else ""
        self._execute(f"CREATE DATABASE {quote_identifier(name)}{like}")
        return name

    def drop(self, database: str) -> None:
        """Drop a database and close the connections to it."""
        # WITH (FORCE) also closes them, but waits in steps of 100 ms: too slow after every test.
        deadline = time.monotonic() + SECONDS_TO_CLOSE
        with suppress(asyncpg.InsufficientPrivilegeError):  # connections of another user
            while self.run(self._connection.fetch(TERMINATE, database)):
                if time.monotonic() > deadline:
                    break
                time.sleep(0.001)
        self._execute(f"DROP DATABASE IF EXISTS {quote_identifier(database)} WITH (FORCE)")

    def clone(self, database: str, migrate: Migrate, kind: str = "postgresql") -> "Clone":
        """Return this process's clone of a migrated database. The first call for a kind creates it."""
        if (database, kind) not in self._clones:
            self._clones[database, kind] = Clone(self, self._template(database, migrate))
        return self._clones[database, kind]

    def connections_to(self, databases: list[str], *, idle: bool = True) -> list[str]:
        """Return the connections to these databases that stay open for SECONDS_TO_CLOSE."""
        deadline = time.monotonic() + SECONDS_TO_CLOSE
        while True:
            others = self.run(
                self._connection.fetch(CONNECTIONS, databases, APPLICATION_NAME, idle)
            )
            if not others or time.monotonic() > deadline:
                return [f"{state}, {query}" for state, query in others]
            time.sleep(0.002)

    def close(self) -> None:
        for clone in self._clones.values():
            clone.drop()
        self.run(self._connection.close())
        self._runner.close()

    def _template(self, database: str, migrate: Migrate) -> str:
        """Return the name of a migrated template. The first process that needs it creates it."""
        name = f"{self._prefix}_{database}_test"
        self._execute("SELECT pg_advisory_lock(hashtext($1))", name)  # other processes wait here
        try:
            known = "SELECT true FROM pg_database WHERE datname = $1"
            if not self.run(self._connection.fetchval(known, name)):
                unfinished = self.create()
                migrate(database, self.url(unfinished))
                self._execute(
                    f"ALTER DATABASE {quote_identifier(unfinished)} RENAME TO {quote_identifier(name)}"
                )
        finally:
            self._execute("SELECT pg_advisory_unlock(hashtext($1))", name)
        return name

    def _execute(self, statement: str, *arguments: object) -> None:
        self.run(self._connection.execute(statement, *arguments))


class Clone:
    """A migrated database, restored after each test."""

    def __init__(self, server: Server, template: str) -> None:
        self._server = server
        self._template = template
        self._make()

    def restore(self) -> None:
        """Restore the initial state, or replace the clone.

        Deleting the rows from the tables that were empty, and resetting the sequences, takes a
        millisecond and is enough after most tests. If a test has changed the schema, or rows that a
        migration wrote, the clone is replaced.
        """
        if not self._server.run(self._is_restored()):
            self.replace()

    def replace(self) -> None:
        """Drop the clone, even if it is in use, and create another one."""
        self.drop()
        self._make()

    def drop(self) -> None:
        self._server.run(self._connection.close())
        self._server.drop(self.database)

    def _make(self) -> None:
        self.database = self._server.create(self._template)
        self._connection = self._server.connect(self.database)
        self._server.run(self._record_state())

    async def _record_state(self) -> None:
        """Store the state of the database and the statements that restore it."""
        fetch = self._connection.fetch
        await self._connection.execute("SET row_security = off")
        tables = [name for (name,) in await fetch(TABLES)]
        full = [table for table in tables if await fetch(f"SELECT FROM {table} LIMIT 1")]
        empty = [table for table in tables if table not in full]
        sequences = [
            (name, *(await fetch(f"SELECT last_value, is_called FROM {name}"))[0])
            for (name,) in await fetch(SEQUENCES)
        ]

        # One statement: foreign keys are checked at its end.
        deletions = ", ".join(f"x{n} AS (DELETE FROM {table})" for n, table in enumerate(empty))
        self._restore = f"WITH {deletions} SELECT" if empty else ""
        for name, value, is_called in sequences:
            self._restore += f"; SELECT setval('{name}', {value}, {is_called})"

        # Check the rows too: rules, triggers and policies may change the effect of a DELETE.
        rows = [f"(EXISTS (SELECT FROM {table}))::text" for table in empty]
        rows += [f"(SELECT string_agg(r::text, ',' ORDER BY r::text) FROM {t} r)" for t in full]
        self._state = f"SELECT md5(concat_ws(';', {', '.join([f'({SCHEMA})', *rows])}))"
        self._expected = await self._connection.fetchval(self._state)

    async def _is_restored(self) -> bool:
        try:
            await self._connection.execute(self._restore)
            found = await self._connection.fetchval(self._state)
        except BROKEN:  # the test has closed the connections of its database
            self._connection.terminate()
            return False
        return bool(found == self._expected)
