"""The service that `make run` serves, and the commands of the rendered README."""

import ast
import json
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from tests.conftest import ROOT, UV, Bake, Install, clean_environment, make
from tests.servers import free_port, wait_until_served

pytestmark = pytest.mark.full


CREATE_USER = """curl -fsS -X POST localhost:8000/users -H 'content-type: application/json' \\
        -d '{"name": "Ada", "email": "ada@example.com"}'"""  # the README of the template has it
CREATE_EVENTS = """curl -fsS -X POST localhost:8000/analytics/events -H 'content-type: application/json' \\
        -d '[{"name": "opened"}, {"name": "closed", "properties": {"after": 3.5}}]'"""
REPORT = "curl -fsS localhost:8000/analytics/report"
EXPORT = "curl -fsS --compressed localhost:8000/analytics/events/export"


@contextmanager
def served(project: Path) -> Iterator[str]:
    """Run `make run` on a free port; yield the service's address."""
    port = free_port()
    running = subprocess.Popen(
        ["make", f"UV={UV}", "run", f"ARGS=--port {port}"],
        cwd=project,
        env=clean_environment(),
        start_new_session=True,
    )
    try:
        wait_until_served(port, running)
        yield f"localhost:{port}"
    finally:
        subprocess.run(["pkill", "-TERM", "-s", str(running.pid)], check=False)
        running.wait(timeout=30)


def curl(command: str, address: str) -> Any:
    [answer] = curl_lines(command, address)
    return answer


def curl_lines(command: str, address: str) -> list[Any]:
    output = subprocess.run(
        command.replace("localhost:8000", address),
        capture_output=True,
        check=True,
        shell=True,
        text=True,
    ).stdout
    return [json.loads(line) for line in output.splitlines()]


def test_stored_rows_survive_a_restart(project: Path) -> None:
    assert CREATE_USER in (ROOT / "README.md").read_text()

    with served(project) as address:
        ada = curl(CREATE_USER, address)
        assert ada["email"] == "ada@example.com"
        assert curl(f"curl -fsS localhost:8000/users/{ada['id']}", address) == ada
        assert curl(CREATE_EVENTS, address) == {"created": 2}
        before = curl(REPORT, address)
        assert before == {"items": [ada | {"events": 0}], "next": None}
        assert [event["id"] for event in curl_lines(EXPORT, address)] == [1, 2]

    with served(project) as address:
        assert curl(REPORT, address) == before


def test_readme_leads_from_a_changed_model_to_a_revision(bake: Bake, install: Install) -> None:
    project = install(bake())
    make(project, "migrate")
    model = project / "app/models/user.py"
    column = "    nickname: Mapped[str | None] = mapped_column(String(50))\n"
    model.write_text(model.read_text().replace("    version:", f"{column}    version:"))

    readme = (project / "README.md").read_text()
    for command in ("make migrate", "make revision MESSAGE=", "python -m app check"):
        assert f"`{command}" in readme
    check = ".venv/bin/python -m app check"
    revision = f"make UV={UV} revision"
    script = [
        "set -e",
        'fails() { ! "$@" || exit 1; }',  # `set -e` ignores a command after `!`
        check,
        f"fails {revision}",
        f"""{revision} MESSAGE="it's \\"what\\" costs \\$5" """,
        f"fails {check}",
        f'fails {revision} MESSAGE="too early"',
        f"make UV={UV} migrate",
        check,
        f'fails {revision} MESSAGE="empty"',
    ]
    subprocess.run(
        ["bash", "-c", "\n".join(script)], check=True, cwd=project, env=clean_environment()
    )
    [made] = (project / "app/migrations/primary").glob("*costs*.py")
    assert ast.get_docstring(ast.parse(made.read_text())) == 'it\'s "what" costs $5'
    assert len([*made.parent.glob("*.py")]) == 2
    make(project, "check", "test", "ARGS=--db=sqlite tests/migrations tests/models")
