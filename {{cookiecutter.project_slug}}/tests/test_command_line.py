"""The command line: python -m app serve, migrate, check."""

import os
import subprocess
import sys
from pathlib import Path

import httpx2
import pytest
from alembic.script import ScriptDirectory
from sqlalchemy import make_url

from app import migrations
from app.core.config import variable
from tests.harness.backends import Backend
from tests.processes import serving

ROOT = Path(__file__).parents[1]
DATABASES = migrations.databases()
VARIABLES = {"PYTHONPATH": str(ROOT), "PATH": os.environ["PATH"]}


@pytest.fixture
def variables(backend: Backend) -> dict[str, str]:
    """An environment with empty databases; on SQLite the default ones, which need no setting."""
    if backend.kind == "sqlite":
        return VARIABLES
    return VARIABLES | {variable(name): backend.new() for name in DATABASES}


def run(
    *arguments: str, variables: dict[str, str], folder: Path
) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "app", *arguments],
        capture_output=True,
        check=False,
        cwd=folder,
        env=variables,
        text=True,
    )


def expected_line(database: str, what: str, variables: dict[str, str]) -> str:
    """Return the line for a database whose revisions are all pending, or have all been applied."""
    url = make_url(variables.get(variable(database), f"sqlite:///var/{database}.db"))
    script = ScriptDirectory.from_config(migrations.config(database))
    history = [step.revision for step in reversed(list(script.walk_revisions()))]
    return f"{database} ({url.set(query={})}): {len(history)} {what}: {', '.join(history)}"


def test_check_lists_pending_revisions_until_migrate_has_run(
    variables: dict[str, str], tmp_path: Path
) -> None:
    before = run("check", variables=variables, folder=tmp_path)
    migrated = run("migrate", variables=variables, folder=tmp_path)
    again = run("migrate", variables=variables, folder=tmp_path)
    after = run("check", variables=variables, folder=tmp_path)

    assert (1, 0, 0, 0) == tuple(r.returncode for r in (before, migrated, again, after))
    assert before.stdout == "".join(
        f"{expected_line(name, 'pending', variables)}\n" for name in DATABASES
    )
    assert migrated.stdout == "".join(
        f"{expected_line(name, 'applied', variables)}\n" for name in DATABASES
    )
    assert again.stdout.count(": nothing to do\n") == len(DATABASES)
    assert after.stdout.count(": up to date\n") == len(DATABASES)


MISTAKES = [
    (["migrate", "--database", "nope"], {}, "error: no database 'nope' has migrations; these"),
    (["serve"], {"ENVIRONMENT": "production"}, "error: ENVIRONMENT=production needs a database"),
    (
        ["migrate", "--database", "primary"],
        {"DATABASE_URL": "postgresql://u:hidden@127.0.0.1:1/d"},
        "error: the database 'primary' cannot be used: ",
    ),
]


@pytest.mark.parametrize(("arguments", "wrong", "message"), MISTAKES)
def test_mistake_is_reported_in_one_sentence(
    tmp_path: Path, arguments: list[str], wrong: dict[str, str], message: str
) -> None:
    ended = run(*arguments, variables=VARIABLES | wrong, folder=tmp_path)

    assert ended.returncode == 1
    assert ended.stderr.startswith(message)
    assert len(ended.stderr.splitlines()) == 1
    assert "hidden" not in ended.stderr


def test_serve_keeps_stored_data_over_a_restart(variables: dict[str, str], tmp_path: Path) -> None:
    variables |= {"MIGRATE_ON_START": "true"}

    for expected in (1, 2):
        with serving("--root-path", "/api", variables=variables, folder=tmp_path) as served:
            assert httpx2.get(f"{served.url}/health/ready").status_code == 200
            assert "/health/ready" not in served.log.read_text()
            assert '"/api/docs/swagger-ui.css"' in httpx2.get(f"{served.url}/docs").text
            users = f"{served.url}/users"
            email = f"{expected}@example.com"
            httpx2.post(users, json={"name": "Ada", "email": email}).raise_for_status()
            assert len(httpx2.get(users).json()["items"]) == expected


@pytest.mark.parametrize("workers", ["1", "2"])
def test_serve_exits_with_zero_after_sigterm(
    variables: dict[str, str], tmp_path: Path, workers: str
) -> None:
    with serving("--workers", workers, variables=variables, folder=tmp_path) as served:
        served.process.terminate()

        assert served.exit_code() == 0
