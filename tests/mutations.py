"""One-line sabotages of the service's sessions, and the test file whose promise each one breaks.

Each is a mistake that somebody could make, or that popular templates do make.
"""

from pathlib import Path
from typing import NamedTuple


class Mutation(NamedTuple):
    name: str
    file: str  # below app/
    old: str
    new: str
    broken: str  # the test file of the promise, below tests/
    kind: str = "sqlite"  # of the databases on which it shows

    def apply(self, project: Path) -> None:
        path = project / "app" / self.file
        source = path.read_text()
        assert self.old in source, f"{self.name}: {self.file} no longer has {self.old!r}"
        path.write_text(source.replace(self.old, self.new))


SESSIONS = [
    Mutation(
        "no commit",
        "core/db.py",
        "        await session.commit()\n",
        "        await session.flush()\n",
        "sessions/test_commit.py",
    ),
    Mutation(
        "commit in finally",
        "core/db.py",
        "        await session.commit()\n    finally:\n",
        "    finally:\n        await session.commit()\n",
        "sessions/test_roll_back.py",
    ),
    Mutation(
        "close on Exception only",
        "core/db.py",
        "    finally:\n        await _roll_back_and_close(session)\n",
        "        await _roll_back_and_close(session)\n    except Exception:\n"
        "        await _roll_back_and_close(session)\n        raise\n",
        "sessions/test_roll_back.py",
    ),
    Mutation(
        "no close",
        "core/db.py",
        "        await _roll_back_and_close(session)\n",
        "        pass\n",
        "sessions/test_exit_paths.py",
    ),
    Mutation(
        "roll back and do not close",
        "core/db.py",
        "        await _roll_back_and_close(session)\n",
        "        await session.rollback()\n",
        "sessions/test_after_the_end.py",
    ),
    Mutation(
        "swallow the error",
        "core/db.py",
        "    finally:\n        await _roll_back_and_close(session)\n",
        "    except Exception:\n        logger.exception('x')\n"
        "    finally:\n        await _roll_back_and_close(session)\n",
        "sessions/test_roll_back.py",
    ),
    Mutation(
        "let the error of the close replace the route's",
        "core/db.py",
        "    except Exception:\n        logger.warning(",
        "    except ZeroDivisionError:\n        logger.warning(",
        "sessions/test_roll_back.py",
        kind="postgresql",
    ),
    Mutation(
        "leave the connection to the task that uses it",
        "core/db.py",
        '        cast("TrackedSession", session.sync_session).abandon()\n',
        "",
        "sessions/test_always_closed.py",
        kind="postgresql",
    ),
    Mutation(
        "new closure per call",
        "core/db.py",
        "return _dependencies.setdefault(key, partial(_session, *key))",
        "return partial(_session, *key)",
        "sessions/test_one_session.py",
    ),
    Mutation(
        "dev ignored",
        "core/db.py",
        "settings.url(dev=dev,",
        "settings.url(dev=False,",
        "sessions/test_lazy.py",
    ),
    Mutation(
        "database ignored",
        "core/db.py",
        "return DEFAULT_DATABASE if database is None else database",
        "return DEFAULT_DATABASE",
        "sessions/test_two_databases.py",
    ),
    Mutation(
        "read_only ignored",
        "core/db.py",
        "settings, read_only=read_only)",
        "settings, read_only=False)",
        "sessions/test_read_only.py",
    ),
    Mutation(
        "settings read at import",
        "core/db.py",
        "_dependencies: dict",
        "get_database()\n_dependencies: dict",
        "sessions/test_lazy.py",
    ),
    Mutation(
        "settings read by get_session()",
        "core/db.py",
        "    key = (_name(database), dev, read_only)\n",
        "    get_database(database)\n    key = (_name(database), dev, read_only)\n",
        "sessions/test_lazy.py",
    ),
    Mutation(
        "engine per call",
        "core/registry.py",
        "if (url, read_only) not in of_loop:",
        "if True:",
        "sessions/test_one_engine.py",
    ),
    Mutation(
        "engines keyed without the password",
        "core/registry.py",
        "url, read_only",
        "str(url), read_only",
        "sessions/test_one_engine.py",
    ),
    Mutation(
        "engines keyed without read_only",
        "core/registry.py",
        "url, read_only",
        "url, False",
        "sessions/test_one_engine.py",
    ),
    Mutation(
        "engines keyed without the loop",
        "core/registry.py",
        "loop = _running_loop()\n",
        "loop = None\n",
        "sessions/test_one_engine.py",
    ),
    Mutation(
        "no lock around the first engine",
        "core/registry.py",
        "    with _lock:\n        if loop",
        "    if True:\n        if loop",
        "sessions/test_one_engine.py",
    ),
    Mutation(
        "engines outlive their loop",
        "core/registry.py",
        "_closers[loop] = _close_with(loop)",
        "pass",
        "sessions/test_one_engine.py",
    ),
    Mutation(
        "connections in use outlive their engine",
        "core/engines.py",
        "            record.invalidate()\n",
        "            pass\n",
        "sessions/test_one_engine.py",
    ),
    Mutation(
        "expire on commit",
        "core/registry.py",
        "expire_on_commit=False",
        "expire_on_commit=True",
        "sessions/test_after_the_end.py",
    ),
    Mutation(
        "close only resets",
        "core/registry.py",
        "close_resets_only=False",
        "close_resets_only=True",
        "sessions/test_after_the_end.py",
    ),
    Mutation(
        "parameters in errors",
        "core/engines.py",
        "hide_parameters=True, **options",
        "hide_parameters=False, **options",
        "sessions/test_secrets.py",
    ),
    Mutation(
        "the pool waits for as long as it likes",
        "core/engines.py",
        '        "pool_timeout": settings.pool_timeout,\n',
        "",
        "sessions/test_outages.py",
    ),
    Mutation(
        "errors of asyncpg left as they are",
        "core/postgresql.py",
        "    except (dbapi.Error, OSError, UnicodeError) as error:",
        "    except ZeroDivisionError as error:",
        "sessions/test_outages.py",
        kind="postgresql",
    ),
    Mutation(
        "COMMIT that was a ROLLBACK believed",
        "core/postgresql.py",
        "            raise TransactionFailedError\n",
        "            pass\n",
        "sessions/test_honest_commit.py",
        kind="postgresql",
    ),
    Mutation(
        "COMMIT of nothing believed",
        "core/sqlite.py",
        '        event.listen(engine, "commit", _refuse_to_commit_nothing)\n',
        "",
        "sessions/test_honest_commit.py",
    ),
    Mutation(
        "busy connections back into the pool",
        "core/postgresql.py",
        '    event.listen(engine, "checkin", _drop_busy)\n',
        "",
        "sessions/test_always_closed.py",
        kind="postgresql",
    ),
    Mutation(
        "stale connections out of the pool",
        "core/postgresql.py",
        '    event.listen(engine, "checkout", _refuse_stale)\n',
        "",
        "sessions/test_stale_connections.py",
        kind="postgresql",
    ),
    Mutation(
        "ping that no server answers",
        "core/postgresql.py",
        'PING = "SELECT 1"',
        'PING = ";"',
        "sessions/test_stale_connections.py",
        kind="postgresql",
    ),
    Mutation(
        "read-only by agreement only",
        "core/postgresql.py",
        '        server["default_transaction_read_only"] = "on"\n',
        "",
        "sessions/test_read_only.py",
        kind="postgresql",
    ),
    Mutation(
        "foreign keys off",
        "core/sqlite.py",
        '    event.listen(engine, "connect", _enforce_foreign_keys)\n',
        "",
        "sessions/test_sqlite.py",
    ),
    Mutation(
        "no write-ahead log",
        "core/sqlite.py",
        '        event.listen(engine, "connect", _write_ahead)\n',
        "        pass\n",
        "sessions/test_sqlite.py",
    ),
    Mutation(
        "BEGIN left to the driver",
        "core/sqlite.py",
        '        event.listen(engine, "begin", _begin)\n',
        "",
        "sessions/test_by_hand.py",
    ),
    Mutation(
        "failed COMMIT left open",
        "core/sqlite.py",
        '        event.listen(engine, "handle_error", _roll_back_failed_commit)\n',
        "",
        "sessions/test_commit.py",
    ),
    Mutation(
        "cancelled statements keep their locks",
        "core/sqlite.py",
        '    event.listen(engine, "invalidate", _abandon)\n',
        "",
        "sessions/test_roll_back.py",
    ),
    Mutation(
        "cancelled statements run to their end",
        "core/sqlite.py",
        '    record.info["abandoned"].set()\n',
        "",
        "sessions/test_roll_back.py",
    ),
    Mutation(
        "threads of aiosqlite stopped twice",
        "core/sqlite.py",
        '    event.listen(engine, "connect", _stop_once)\n',
        "",
        "sessions/test_roll_back.py",
    ),
    Mutation(
        "databases in memory lost with a statement",
        "core/sqlite.py",
        "    context.is_disconnect = False\n",
        "    pass\n",
        "sessions/test_one_engine.py",
    ),
    Mutation(
        "sslmode dropped",
        "core/libpq.py",
        "translated |= TRANSLATIONS[name](name, value)",
        "pass",
        "core/test_urls.py",
    ),
    Mutation(
        "secrets in repr",
        "core/config.py",
        "DatabaseUrl = Annotated[SecretStr, AfterValidator(_is_usable)]",
        "DatabaseUrl = str\nSecretStr.__repr__ = SecretStr.get_secret_value  # type: ignore",
        "sessions/test_secrets.py",
    ),
    Mutation(
        "requests go on without their client",
        "main.py",
        "    app.add_middleware(CancelOnDisconnect)\n",
        "",
        "sessions/test_always_closed.py",
    ),
    Mutation(
        "background tasks end with their client",
        "core/disconnects.py",
        "        self._is_answered = True\n",
        "",
        "sessions/test_always_closed.py",
    ),
    Mutation(
        "requests are torn away from their threads",
        "core/disconnects.py",
        "            if self.request not in threads.statistics().borrowers:",
        "            if True:",
        "sessions/test_always_closed.py",
    ),
    Mutation(
        "clients that leave are an error",
        "core/disconnects.py",
        "            await Response(status_code=CLIENT_CLOSED_REQUEST)(scope, receive, send)\n",
        "",
        "sessions/test_always_closed.py",
    ),
    Mutation(
        "default scope",
        "dependencies.py",
        'SessionDep = Annotated[AsyncSession, Depends(get_session(), scope="function")]\nPrimary',
        "SessionDep = Annotated[AsyncSession, Depends(get_session())]\nPrimary",
        "sessions/test_commit.py",
    ),
    Mutation(
        "another scope for another alias",
        "dependencies.py",
        "PrimarySessionDep = SessionDep",
        "PrimarySessionDep = Annotated[AsyncSession, Depends(get_session())]",
        "sessions/test_one_session.py",
    ),
    Mutation(
        "alias of the wrong database",
        "dependencies.py",
        'get_session("analytics")',
        "get_session()",
        "sessions/test_two_databases.py",
    ),
]
