"""What the README shows works, and links lead somewhere."""

import asyncio
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from fastapi import FastAPI
from httpx2 import AsyncClient
from sqlalchemy import select

from app.core.db import session_scope
from app.models import User

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text()
ROUTE, SCRIPT, *_ = re.findall(r"```python\n(.*?)```", README, flags=re.DOTALL)


async def test_route_of_the_readme(app: FastAPI, client: AsyncClient) -> None:
    namespace: dict[str, Any] = {}
    exec(compile(ROUTE, "README.md", "exec"), namespace)  # noqa: S102, it is our own
    app.include_router(namespace["router"])
    await client.post("/users", json={"name": "Ada", "email": "ada@example.com"})

    assert (await client.get("/user-count")).json() == 1


def test_script_of_the_readme(databases: None, tmp_path: Path) -> None:
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-c", SCRIPT]
    subprocess.run(command, check=True, cwd=tmp_path, env=environment)  # without a .env

    async def names() -> list[str]:
        async with session_scope() as session:
            return list(await session.scalars(select(User.name)))

    assert asyncio.run(names()) == ["Grace"]


def links(page: Path) -> list[Path]:
    """Return the files that a page links to."""
    found = re.findall(r"\]\((?!https?:)([^)#]+)", page.read_text())
    return [(page.parent / link).resolve() for link in found]


PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_of_a_page_lead_somewhere(page: Path) -> None:
    for link in links(page):
        assert link.exists(), link


def test_every_setting_that_operations_names_is_one() -> None:
    page = (ROOT / "docs" / "operations.md").read_text()
    example = (ROOT / ".env.example").read_text()
    named = re.findall(r"\b[A-Z]+_[A-Z_]+[A-Z]\b", page)
    settings = {name.split("__")[-1] for name in re.findall(r"^([A-Z_]+)=", example, re.M)}

    assert {"SHUTDOWN_DELAY"} < {*named}
    others = {"MAX_BODY_SIZE"} | {name for name in named if name.startswith("OTEL_")}
    assert {*named} - others <= settings


def test_every_file_of_the_promises_is_in_their_table() -> None:
    tests = (ROOT / "tests" / "sessions").resolve().glob("test_*.py")

    assert {*tests} <= {*links(ROOT / "docs" / "sessions.md")}
