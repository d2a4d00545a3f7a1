"""Mutations: one-line changes that break a promise of the sessions, each with the test that must fail.

Each mutation is a realistic mistake. Popular templates contain several of them.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple


class Mutation(NamedTuple):
    name: str
    file: str  # below app/
    old: str
    new: str
    broken: str  # the test that must fail, below tests/; a file if its first tests do
    kind: str = "sqlite"  # the database on which the tests run: sqlite or postgresql

    @contextmanager
    def applied(self, project: Path) -> Iterator[None]:
        """Apply the mutation to a copy of the service until the end of the block."""
        path = project / "app" / self.file
        source = path.read_text()
        assert self.old in source, f"{self.name}: {self.file} does not contain {self.old!r}"
        write(path, source.replace(self.old, self.new))
        try:
            yield
        finally:
            write(path, source)


def write(path: Path, source: str) -> None:
    """Write a module, and delete its bytecode.

    Python would use the bytecode of another text with the same size and the same second of modification.
    """
    path.write_text(source)
    for compiled in (path.parent / "__pycache__").glob(f"{path.stem}.*.pyc"):
        compiled.unlink()


SESSIONS = [
    Mutation(
        "no commit",
        "core/db.py",
        "            await session.commit_at_end()\n",
        "            await session.flush()\n",
        "core/test_db.py",
    ),
    Mutation(
        "commit in finally",
        "core/db.py",
        "if error is None and session.needs_round_trip():",
        "if session.needs_round_trip():",
        "core/test_db.py",
    ),
    Mutation(
        "unsaved changes in a read-only session ignored",
        "core/database/sync_session.py",
        "return bool(self.new or self.dirty or self.deleted)",
        "return False",
        "core/database/postgresql/test_read_only_sessions.py",
        kind="postgresql",
    ),
    Mutation(
        "failed flush in a read-only session ignored",
        "core/database/sync_session.py",
        " or not self.is_active",
        "",
        "core/database/postgresql/test_read_only_sessions.py",
        kind="postgresql",
    ),
    Mutation(
        "connection with an open stream reused",
        "core/database/postgresql/_liveness.py",
        " or connection._execute_mutex.locked()",
        "",
        "core/database/postgresql/test_read_only_sessions.py",
        kind="postgresql",
    ),
    Mutation(
        "closing of overflow connections not logged",
        "core/database/postgresql/_commit.py",
        " and pool.overflow() <= 0",
        "",
        "conformance/test_pool.py",
        kind="postgresql",
    ),
    Mutation(
        "connection beyond the pool size closed without a greenlet",
        "core/database/postgresql/_commit.py",
        "    return returns_at_once(connection)",
        "    return True",
        "conformance/core/database/test_statement.py",
        kind="postgresql",
    ),
    Mutation(
        "session not closed on BaseException",
        "core/db.py",
        "    try:\n        if error is None and session",
        "    if not isinstance(error, Exception | None):\n        return\n"
        "    try:\n        if error is None and session",
        "core/test_db.py",
    ),
    Mutation(
        "session not closed",
        "core/db.py",
        "        await roll_back_and_close(session)\n",
        "        pass\n",
        "core/test_db.py",
    ),
    Mutation(
        "session rolled back but not closed",
        "core/db.py",
        "        await roll_back_and_close(session)\n",
        "        await session.rollback()\n",
        "core/test_db.py",
    ),
    Mutation(
        "exceptions of routes swallowed",
        "core/db.py",
        "    finally:\n        await roll_back_and_close(session)\n",
        "    except Exception:\n        pass\n    finally:\n        await roll_back_and_close(session)\n",
        "core/test_db.py",
    ),
    Mutation(
        "error while closing replaces the route's error",
        "core/database/session.py",
        "    closing = start(partial(_close, session))\n",
        "    await session.close()\n    closing = start(partial(_close, session))\n",
        "core/test_db.py::test_rollback_on_a_dead_connection_does_not_replace_the_exception",
        kind="postgresql",
    ),
    Mutation(
        "connection used by another task not abandoned",
        "core/database/session.py",
        "exc_info=error)\n    session.abandon()\n",
        "exc_info=error)\n",
        "core/test_db.py::test_connection_that_a_task_still_uses_is_closed_when_the_block_fails",
        kind="postgresql",
    ),
    Mutation(
        "only the last connection checked before a commit",
        "core/database/sync_session.py",
        "        for connection in connections:\n            if not",
        "        for connection in connections[-1:]:\n            if not",
        "core/database/test_session.py",
        kind="postgresql",
    ),
    Mutation(
        "second cancellation interrupts the close",
        "core/database/tasks.py",
        "    with CancelScope(shield=True):\n        while not task.done():\n",
        "    for _ in range(1):\n        for _ in range(1):\n",
        "core/database/test_session.py",
    ),
    Mutation(
        "ignored settings not logged",
        "core/database/registry.py",
        "        database.warn_of_ignored(settings)\n",
        "        pass\n",
        "core/database/test_registry.py::test_settings_that_an_existing_engine_does_not_have_are_logged",
    ),
    Mutation(
        "database names not checked at startup",
        "main.py",
        "    check_database_names(app)\n",
        "",
        "core/test_db.py::test_misspelt_name_of_a_database_stops_the_start",
    ),
    Mutation(
        "new dependency per get_session() call",
        "core/db.py",
        "return _dependencies.setdefault(key, SessionDependency(*key))",
        "return SessionDependency(*key)",
        "core/test_db.py::test_same_arguments_give_the_same_dependency",
    ),
    Mutation(
        "dev ignored",
        "core/db.py",
        "find_database(_settings(database), dev=dev,",
        "find_database(_settings(database), dev=False,",
        "core/test_db.py::test_name_and_dev_choose_the_database",
    ),
    Mutation(
        "database ignored",
        "core/db.py",
        "else get_database(database)",
        "else get_database()",
        "core/test_db.py::test_name_and_dev_choose_the_database",
    ),
    Mutation(
        "read_only ignored",
        "core/db.py",
        "dev=dev, read_only=read_only)",
        "dev=dev, read_only=False)",
        "core/test_db.py::test_read_only_session_refuses_writes",
    ),
    Mutation(
        "settings read at import",
        "core/db.py",
        "_dependencies: dict",
        "get_database()\n_dependencies: dict",
        "core/test_db.py::test_import_opens_nothing_and_reads_no_settings",
    ),
    Mutation(
        "settings read by get_session()",
        "core/db.py",
        "    key = (DEFAULT",
        "    get_database(database)\n    key = (DEFAULT",
        "core/test_db.py::test_same_arguments_give_the_same_dependency",
    ),
    Mutation(
        "engine per call",
        "core/database/registry.py",
        "        databases[key] = Database(engine, sessions, settings)\n",
        "        return Database(engine, sessions, settings)\n",
        "core/database/test_registry.py",
    ),
    Mutation(
        "engines keyed without the password",
        "core/database/settings.py",
        "    url: URL\n    read_only: bool = False\n",
        "    url: URL = field(compare=False)\n    read_only: bool = False\n",
        "core/database/test_registry.py",
    ),
    Mutation(
        "engines keyed without read_only",
        "core/database/settings.py",
        "EngineKey(url, read_only, probe, fallback)",
        "EngineKey(url, False, probe, fallback)",
        "core/database/test_registry.py",
    ),
    Mutation(
        "engines keyed without the loop",
        "core/database/registry.py",
        "    loop = _running_loop()\n",
        "    loop = None\n",
        "core/database/test_registry.py",
    ),
    Mutation(
        "no lock around the first engine",
        "core/database/registry.py",
        "        with _lock:\n            database = _find_or_create",
        "        if True:\n            database = _find_or_create",
        "core/database/test_registry.py",
    ),
    Mutation(
        "engines not disposed with their loop",
        "core/database/registry.py",
        "_closers[loop] = _dispose_at_end_of(loop)",
        "pass",
        "core/database/test_registry.py",
    ),
    Mutation(
        "all engines disposed instead of one database's",
        "core/database/registry.py",
        "        if settings is None:\n",
        "        if True:\n",
        "core/database/test_registry.py",
    ),
    Mutation(
        "disposed engine used again",
        "core/database/registry.py",
        "databases.pop(key).engine",
        "databases[key].engine",
        "core/database/test_registry.py",
    ),
    Mutation(
        "cancellation interrupts the disposal of engines",
        "core/database/registry.py",
        "await asyncio.shield(_dispose_all(engines))",
        "await _dispose_all(engines)",
        "core/database/test_registry.py",
    ),
    Mutation(
        "equal settings get separate engines",
        "core/database/settings.py",
        "@dataclass(frozen=True, slots=True)\nclass EngineKey",
        "@dataclass(frozen=True, slots=True, eq=False)\nclass EngineKey",
        "core/database/test_registry.py",
    ),
    Mutation(
        "connections in use not closed after disposal",
        "core/database/engine.py",
        "            record.invalidate()\n",
        "            pass\n",
        "core/database/test_registry.py",
    ),
    Mutation(
        "attributes expire on commit",
        "core/database/registry.py",
        "expire_on_commit=False",
        "expire_on_commit=True",
        "core/test_db.py::test_attributes_stay_readable_after_the_commit",
    ),
    Mutation(
        "closed session can be used again",
        "core/database/registry.py",
        "close_resets_only=False",
        "close_resets_only=True",
        "core/test_db.py",
    ),
    Mutation(
        "statement parameters in errors",
        "core/database/hidden_values.py",
        "        outer.params = None",
        "        pass",
        "conformance/test_secrets.py",
    ),
    Mutation(
        "statement parameters in SQLAlchemy's log",
        "core/database/engine.py",
        "hide_parameters=True, json_serializer",
        "json_serializer",
        "conformance/test_secrets.py::test_written_values_are_not_in_the_log_of_sqlalchemy",
    ),
    Mutation(
        "values in messages of the server",
        "core/database/hidden_values.py",
        "        if code.startswith(DATA) or not known.issuperset(WORD.findall(suspect[0])):\n",
        "        if code.startswith(DATA):\n",
        "conformance/test_secrets.py",
    ),
    Mutation(
        "cancelled COMMIT visible without the standby",
        "core/database/postgresql/_connection.py",
        "        if self._is_committing:\n",
        "        if False:\n",
        "conformance/test_replica.py::test_cancelled_commit_stays_invisible_until_a_standby_has_it",
        kind="postgresql",
    ),
    Mutation(
        "pool serves newcomers first",
        "core/database/engine.py",
        '"poolclass": FairPool,',
        '"poolclass": FairPool.__base__,',
        "core/database/test_pool.py",
    ),
    Mutation(
        "cancelled waiter loses its connection",
        "core/database/pool.py",
        "                self.put_nowait(waiter.result())\n",
        "                pass\n",
        "core/database/test_pool.py",
    ),
    Mutation(
        "stream without a transaction",
        "core/database/postgresql/__init__.py",
        '        event.listen(engine, "do_execute", begin_snapshot)\n',
        "",
        "core/database/postgresql/test_read_only_sessions.py",
        kind="postgresql",
    ),
    Mutation(
        "transaction of a stream not ended at check-in",
        "core/database/postgresql/__init__.py",
        '        event.listen(engine, "checkin", partial(end_snapshot, engine.dialect))\n',
        "",
        "core/database/postgresql/test_read_only_sessions.py",
        kind="postgresql",
    ),
    Mutation(
        "read-only statements in transactions",
        "core/database/postgresql/__init__.py",
        '        options["isolation_level"] = "AUTOCOMMIT"\n',
        "",
        "core/database/postgresql/test_read_only_sessions.py",
        kind="postgresql",
    ),
    Mutation(
        "read-only SQLite connection accepts writes",
        "core/database/sqlite.py",
        '        event.listen(engine, "connect", _refuse_writes)\n',
        "        pass\n",
        "core/database/test_sqlite.py",
    ),
    Mutation(
        "replica ignored",
        "core/database/settings.py",
        "if read_only and self.read_database_url:",
        "if False:",
        "core/test_db.py::test_read_only_session_uses_the_replica",
    ),
    Mutation(
        "fall back without READ_FALLBACK",
        "core/database/settings.py",
        "if self.read_fallback and ",
        "if ",
        "conformance/core/database/test_replica.py",
        kind="postgresql",
    ),
    Mutation(
        "connections to the fallback never expire",
        "core/database/replica.py",
        '    event.listen(engine, "checkout", fallback.refuse_expired)\n',
        "",
        "conformance/core/database/test_replica.py",
        kind="postgresql",
    ),
    Mutation(
        "every read tries an unreachable replica",
        "core/database/replica.py",
        "if not self._is_down or monotonic() >= self._next_try:",
        "if True:",
        "conformance/core/database/test_replica.py",
        kind="postgresql",
    ),
    Mutation(
        "fallback connection accepts writes",
        "core/database/replica.py",
        "{**where, **self._arguments}",
        "dict(where)",
        "conformance/core/database/test_replica.py",
        kind="postgresql",
    ),
    Mutation(
        "fall back after any connection error",
        "core/database/replica.py",
        "                if not _means_down(error.__cause__):\n                    raise\n",
        "",
        "conformance/core/database/test_replica.py",
        kind="postgresql",
    ),
    Mutation(
        "POOL_TIMEOUT ignored",
        "core/database/engine.py",
        '        "pool_timeout": settings.pool_timeout,\n',
        "",
        "core/database/test_engine.py",
    ),
    Mutation(
        "connection errors of asyncpg not translated",
        "core/database/postgresql/_connect.py",
        "    except outages as error:",
        "    except ZeroDivisionError as error:",
        "core/database/test_engine.py",
        kind="postgresql",
    ),
    Mutation(
        "COMMIT that became a ROLLBACK not detected",
        "core/database/postgresql/_connection.py",
        "            raise TransactionFailedError\n",
        "            pass\n",
        "core/database/postgresql/test_commit_check.py",
        kind="postgresql",
    ),
    Mutation(
        "commit after a lost SQLite transaction not detected",
        "core/database/sqlite.py",
        '        event.listen(engine, "commit", _refuse_lost_transaction)\n',
        "",
        "core/test_db.py",
    ),
    Mutation(
        "busy connections reused",
        "core/database/postgresql/_liveness.py",
        "    if driver.is_in_transaction() or connection._execute_mutex.locked():\n"
        "        record.invalidate()\n",
        "",
        "core/database/postgresql/test_read_only_sessions.py",
        kind="postgresql",
    ),
    Mutation(
        "stale connections not discarded",
        "core/database/postgresql/__init__.py",
        '    event.listen(engine, "checkout", discard_stale)\n',
        "",
        "core/database/postgresql/test_liveness.py",
        kind="postgresql",
    ),
    Mutation(
        "pre-ping with an empty statement",
        "core/database/postgresql/_liveness.py",
        'PING = "SELECT 1"',
        'PING = ";"',
        "core/database/postgresql/test_liveness.py",
        kind="postgresql",
    ),
    Mutation(
        "read-only PostgreSQL session accepts writes",
        "core/database/postgresql/__init__.py",
        '        arguments["read_only"] = True\n',
        "",
        "core/database/postgresql/test_read_only_sessions.py",
        kind="postgresql",
    ),
    Mutation(
        "prepared statements cached behind PgBouncer",
        "core/database/postgresql/__init__.py",
        '            "statement_cache_size": 0,\n',
        "",
        "conformance/core/database/postgresql/test_pooler.py",
        kind="postgresql",
    ),
    Mutation(
        "timeouts not set behind PgBouncer",
        "core/database/postgresql/_connection.py",
        "                query += self.limits\n",
        "                pass\n",
        "conformance/core/database/postgresql/test_pooler.py",
        kind="postgresql",
    ),
    Mutation(
        "read-only session behind PgBouncer accepts writes",
        "core/database/postgresql/__init__.py",
        '            options["execution_options"] = {"postgresql_readonly": True}\n',
        "            pass\n",
        "conformance/core/database/postgresql/test_pooler.py",
        kind="postgresql",
    ),
    Mutation(
        "SQLite foreign keys off",
        "core/database/sqlite.py",
        '    event.listen(engine, "connect", _enforce_foreign_keys)\n',
        "",
        "core/database/test_sqlite.py",
    ),
    Mutation(
        "SQLite without write-ahead log",
        "core/database/sqlite.py",
        '        event.listen(engine, "connect", _enable_write_ahead_log)\n',
        "        pass\n",
        "core/database/test_sqlite.py",
    ),
    Mutation(
        "BEGIN left to the SQLite driver",
        "core/database/sqlite.py",
        '        event.listen(engine, "begin", _begin)\n',
        "",
        "core/test_db.py",
    ),
    Mutation(
        "transaction open after a failed SQLite COMMIT",
        "core/database/sqlite.py",
        '        event.listen(engine, "handle_error", _roll_back_failed_commit)\n',
        "",
        "core/test_db.py",
    ),
    Mutation(
        "cancelled SQLite statement keeps its locks",
        "core/database/sqlite.py",
        '    event.listen(engine, "invalidate", _interrupt_and_roll_back)\n',
        "",
        "core/database/test_sqlite.py",
    ),
    Mutation(
        "cancelled SQLite statement not interrupted",
        "core/database/sqlite.py",
        '    record.info["interrupted"].set()\n',
        "",
        "core/database/test_sqlite.py",
    ),
    Mutation(
        "aiosqlite thread stopped twice",
        "core/database/sqlite.py",
        '    event.listen(engine, "connect", _stop_thread_once)\n',
        "",
        "core/test_db.py::test_task_that_is_cancelled_repeatedly_leaves_no_connection_no_task_and_no_row",
    ),
    Mutation(
        "in-memory database lost after a cancelled statement",
        "core/database/sqlite.py",
        "    context.is_disconnect = False\n",
        "    pass\n",
        "core/database/test_sqlite.py",
    ),
    Mutation(
        "sslmode dropped",
        "core/database/libpq.py",
        "translated |= TRANSLATIONS[name](name, value)",
        "pass",
        "core/database/test_url.py",
    ),
    Mutation(
        "passwords in repr",
        "core/database/settings.py",
        "DatabaseUrl = Annotated[SecretStr, AfterValidator(_is_trimmed), AfterValidator(_is_usable)]",
        "DatabaseUrl = str\nSecretStr.__repr__ = SecretStr.get_secret_value  # type: ignore",
        "core/test_config.py",
    ),
    Mutation(
        "request not cancelled after a client disconnect",
        "main.py",
        "    app.add_middleware(DisconnectMiddleware)\n",
        "",
        "core/web/test_client_disconnects.py",
    ),
    Mutation(
        "background task cancelled by a client disconnect",
        "core/web/disconnects.py",
        "        self._response_started = True\n",
        "",
        "core/web/test_client_disconnects.py",
    ),
    Mutation(
        "request cancelled while its thread runs",
        "core/web/disconnects.py",
        "            if self.request not in threads.statistics().borrowers:",
        "            if True:",
        "core/web/test_client_disconnects.py",
    ),
    Mutation(
        "no response after a client disconnect",
        "core/web/disconnects.py",
        "            await Response(status_code=CLIENT_CLOSED_REQUEST)(scope, receive, send)\n",
        "",
        "core/web/test_client_disconnects.py",
    ),
    Mutation(
        "PrimarySessionDep with another scope",
        "dependencies.py",
        "PrimarySessionDep = SessionDep",
        "PrimarySessionDep = Annotated[AsyncSession, Depends(get_session())]",
        "core/test_db.py::test_aliases_of_a_database_share_one_session_in_a_request",
    ),
    Mutation(
        "AnalyticsSessionDep of the wrong database",
        "dependencies.py",
        'get_session("analytics")',
        "get_session()",
        "core/test_two_databases.py",
    ),
    *(
        Mutation(
            f"prepared statements: {name}",
            f"core/database/{file}.py",
            old,
            new,
            "conformance/core/database/test_statement.py",
            kind="postgresql",
        )
        for name, file, old, new in (
            (
                "error of the driver",
                "statement",
                "await self._raise(error, connection, values)",
                "raise",
            ),
            (
                "stale after a migration",
                "statement",
                "cursor._invalidate_schema_cache_asof = compiled.dialect._invalidate_schema_cache_asof",
                "pass",
            ),
            (
                "not counted",
                "statement",
                "            done.add(connection, began)\n",
                "            pass\n",
            ),
            (
                "stored value shown",
                "statement",
                "map(hiding, self.processors, self.metadata.keys)",
                "self.processors",
            ),
            ("listeners missed", "observers", "            or engine._has_events\n", ""),
            ("log missed", "observers", "or engine.logger.isEnabledFor(logging.INFO)", ""),
            ("options missed", "observers", "is not self._options", "is None"),
            (
                "two transactions",
                "session",
                "self._hand_over(self._connection)",
                "self._connection = None",
            ),
            (
                "connection kept",
                "session",
                "            await greenlet_spawn(connection.close)\n",
                "",
            ),
            (
                "not committed",
                "session",
                "return self._connection is not None and not",
                "return False and not",
            ),
            (
                "COMMIT not sent",
                "postgresql/_commit",
                "await transaction.commit()",
                "pass",
            ),
            (
                "error of COMMIT lost",
                "postgresql/_commit",
                "adapter._transaction = _FailedTransaction(error)",
                "adapter._transaction = None",
            ),
        )
    ),
]
