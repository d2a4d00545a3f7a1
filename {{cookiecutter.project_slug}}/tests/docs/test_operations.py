"""Tests docs/operations.md: its defaults, quoted messages, SQL and failover URL are right."""

import ast
import asyncio
import os
import re

import pytest
from sqlalchemy import make_url, text

from app.core.config import variable
from app.core.db import dispose_engines, session_scope
from tests.conformance.harness.proxy import Proxy
from tests.conformance.inspection import until_waiting
from tests.docs.snippets import ROOT
from tests.inspection import fetch, pid
from tests.support import set_databases

PAGE = (ROOT / "docs" / "operations.md").read_text()

BY_POSTGRESQL = {"canceling statement due to lock timeout"}


def test_defaults_are_those_of_env_example() -> None:
    example = (ROOT / ".env.example").read_text()
    values = {
        name.split("__")[-1]: value
        for name, value in re.findall(r"^([A-Z_]+)=(.*)$", example, re.M)
    }
    named = re.findall(r"`([A-Z_]+)(?:=true)?`\s\(default\s`?(\w+)`?\)", PAGE)

    assert len(named) > 10
    assert named == [(name, values.get(name)) for name, _ in named]


def test_quoted_messages_are_those_of_the_service() -> None:
    rows = re.findall(r"^\| (.+?) \| .+ \| .+ \|$", PAGE.partition("### ")[0], re.MULTILINE)
    quoted = {span for row in rows for span in re.findall("`([^`]+)`", row) if " " in span}
    sources = [path.read_text() for path in (ROOT / "app").rglob("*.py")]
    constants = [
        str(node.value)
        for source in sources
        for node in ast.walk(ast.parse(source))
        if isinstance(node, ast.Constant) and isinstance(node.value, str)
    ]

    assert len(quoted) > 5
    for message in quoted - BY_POSTGRESQL:
        assert any(message in constant for constant in constants), message


@pytest.mark.postgresql
async def test_query_shows_which_transaction_blocks_another(databases: None) -> None:
    [query] = re.findall(r"^```sql\n(.+?);\n```$", PAGE, re.MULTILINE | re.DOTALL)

    async def wait_for_lock() -> None:
        async with session_scope() as session:
            await session.execute(text("LOCK TABLE users"))

    async with session_scope() as session:
        blocker = await pid(session)
        await session.execute(text("LOCK TABLE users"))
        blocked = asyncio.create_task(wait_for_lock())
        await until_waiting("LOCK TABLE users")
        rows = [row for row in await fetch(query) if "LOCK TABLE" in row.query]
    await blocked

    assert [row.blocked_by for row in rows] == [[], [blocker]]
    assert rows[0].pid == blocker


@pytest.mark.postgresql
@pytest.mark.parametrize("read_only", [False, True])
async def test_failover_url_finds_the_primary(
    databases: None, environment: pytest.MonkeyPatch, read_only: bool
) -> None:
    [example] = re.findall(r"^    (postgresql://.+host=.+)$", PAGE, re.MULTILINE)
    async with Proxy(os.environ[variable("primary")]) as proxy:
        there = make_url(proxy.url)
        hosts = ("127.0.0.1:1", f"{there.host}:{there.port}")
        query = {**make_url(example).query, "host": hosts}
        url = there.set(host=None, port=None).update_query_dict(query)
        set_databases(environment, {"primary": url.render_as_string(hide_password=False)})

        async with session_scope(read_only=read_only) as session:
            assert await session.scalar(text("SELECT pg_is_in_recovery()")) is False
        await dispose_engines()
