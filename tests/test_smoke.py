"""The commands of the rendered README, against the service that `make run` serves."""

import json
import re
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from tests.conftest import UV, Bake, clean_environment, make
from tests.servers import free_port, wait_until_served

pytestmark = pytest.mark.full


def commands(project: Path, name: str) -> list[str]:
    """Return the commands with this name that the README shows, with what continues them."""
    readme = (project / "README.md").read_text().replace("\\\n", "")
    return re.findall(rf"^ {{4}}({name} .+)$", readme, flags=re.MULTILINE)


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


def test_readme_is_true_and_what_is_stored_survives_a_restart(project: Path) -> None:
    create_user, create_events, report, export = commands(project, "curl")

    with served(project) as address:
        ada = curl(create_user, address)
        assert ada["email"] == "ada@example.com"
        assert curl(f"curl -fsS localhost:8000/users/{ada['id']}", address) == ada
        assert curl(create_events, address) == {"created": 2}
        before = curl(report, address)
        assert before == {"items": [ada | {"events": 0}], "next": None}
        assert [event["id"] for event in curl_lines(export, address)] == [1, 2]

    with served(project) as address:
        assert curl(report, address) == before


def test_readme_leads_from_a_changed_model_to_a_revision(bake: Bake) -> None:
    project = bake()
    make(project, "migrate")
    model = project / "app/models/user.py"
    column = "    nickname: Mapped[str | None] = mapped_column(String(50))\n"
    model.write_text(model.read_text().replace("    version:", f"{column}    version:"))

    activate, *typed = commands(project, r"(?:\.|python -m app|alembic)")
    migrate, check, revise_primary, revise_analytics = typed
    script = [activate, "set -e", migrate, check, revise_primary, revise_analytics]
    script += [f"! {check}", migrate, check, "example-service check"]
    subprocess.run(
        ["bash", "-c", "\n".join(script)], check=True, cwd=project, env=clean_environment()
    )
    make(project, "check", "test", "ARGS=--db=sqlite tests/migrations tests/models")
