"""The titled examples of docs/sessions.md and docs/session-patterns.md."""

import asyncio
import json
import os
import subprocess
import sys

import pytest
from fastapi import FastAPI
from httpx2 import AsyncClient
from sqlalchemy.exc import IntegrityError
from websockets.asyncio.client import connect

from app.core.config import variable
from app.core.db import session_scope
from tests.docs.conftest import Load
from tests.docs.snippets import find_snippet
from tests.inspection import checked_out, fetch, stored_users
from tests.processes import VARIABLES
from tests.support import PRODUCTION, new_user, user_values

ADA = user_values()


async def test_background_task_reads_the_row_that_its_route_has_committed(
    app: FastAPI, server: AsyncClient, load: Load, monkeypatch: pytest.MonkeyPatch
) -> None:
    example = load("a route and its background task")
    welcomed = asyncio.Queue[str]()
    monkeypatch.setattr(example, "print", welcomed.put_nowait)
    app.include_router(example.router)

    created = await server.post("/sign-up", json=ADA)

    assert created.status_code == 201
    assert (await server.get(f"/users/{created.json()}")).json()["name"] == "Ada"
    async with asyncio.timeout(10):
        assert await welcomed.get() == "Welcome, Ada!"


async def test_route_that_fails_stores_nothing_and_starts_no_background_task(
    app: FastAPI, server: AsyncClient, load: Load, monkeypatch: pytest.MonkeyPatch
) -> None:
    example = load("a route and its background task")
    welcomed: list[str] = []
    monkeypatch.setattr(example, "print", welcomed.append)
    app.include_router(example.router)
    await server.post("/users", json=ADA)

    assert (await server.post("/sign-up", json=ADA)).status_code == 409
    assert await stored_users() == 1
    assert welcomed == []


def run_in_crontab(script: str, url: str) -> "subprocess.CompletedProcess[str]":
    """Run it in production, with the URL of one database."""
    variables = VARIABLES | PRODUCTION | {variable("primary"): url}
    return subprocess.run(
        [sys.executable, "-c", script],
        capture_output=True,
        check=False,
        env=variables,
        text=True,
        timeout=60,
    )


async def test_job_trims_names_with_the_url_of_its_database_only(databases: None) -> None:
    async with session_scope() as session:
        session.add_all([new_user(" Ada "), new_user("Grace")])

    url = os.environ[variable("primary")]
    ended = await asyncio.to_thread(run_in_crontab, find_snippet("a job").source, url)

    assert (ended.returncode, ended.stdout, ended.stderr) == (0, "", "")
    assert await fetch("SELECT name FROM users ORDER BY name") == [("Ada",), ("Grace",)]


def test_job_that_fails_logs_json_as_the_service_does() -> None:
    ended = run_in_crontab(find_snippet("a job").source, "postgresql://u:hidden@127.0.0.1:1/d")

    [line] = ended.stderr.splitlines()
    assert (ended.returncode, json.loads(line)["level"]) == (1, "CRITICAL")
    assert "hidden" not in line


async def test_stream_reads_in_its_own_session(
    app: FastAPI, server: AsyncClient, load: Load
) -> None:
    app.include_router(load("a stream and a WebSocket").router)
    async with session_scope() as session:
        session.add_all([new_user("Ada"), new_user("Grace")])

    response = await server.get("/names")

    assert sorted(response.text.splitlines()) == ["Ada", "Grace"]
    assert checked_out() == []


async def test_websocket_commits_each_message_before_it_responds(
    app: FastAPI, server: AsyncClient, load: Load
) -> None:
    app.include_router(load("a stream and a WebSocket").router)
    url = server.base_url.copy_with(scheme="ws", path="/emails")

    async with connect(str(url)) as socket:
        for number, email in enumerate(("ada@example.com", "grace@example.com"), start=1):
            await socket.send(email)

            assert await socket.recv() == f"stored {email}"
            assert checked_out() == []
            assert await stored_users() == number


async def test_import_raises_errors_other_than_duplicates(load: Load) -> None:
    import_users = load("an import").import_users

    with pytest.raises(IntegrityError):
        async with session_scope() as session:
            session.add(new_user())
            await import_users(session, [None])

    assert await stored_users() == 0


async def test_imports_in_different_orders_do_not_deadlock(load: Load) -> None:
    import_users = load("an import").import_users
    emails = [f"{n}@example.com" for n in range(40)]

    async def import_(emails: list[str]) -> int:
        async with session_scope() as session:
            return len(await import_users(session, emails))

    existing = await asyncio.gather(import_(emails), import_(emails[::-1]))

    assert sorted(existing) == [0, 40]
    assert await stored_users() == 40
