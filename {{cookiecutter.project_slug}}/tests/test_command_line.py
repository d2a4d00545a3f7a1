"""The command line: python -m app serve, migrate, check."""

from pathlib import Path

import httpx2
import pytest

from tests.processes import DATABASES, VARIABLES, expected_line, run, serving
from tests.support import PRODUCTION, USERS, user_values


def test_check_lists_pending_revisions_until_migrate_has_run(
    variables: dict[str, str], tmp_path: Path
) -> None:
    before = run("check", variables=variables, folder=tmp_path, exit_code=1)
    migrated = run("migrate", variables=variables, folder=tmp_path)
    after = run("check", variables=variables, folder=tmp_path)

    assert before.stdout == "".join(
        f"{expected_line(name, 'pending', variables)}\n" for name in DATABASES
    )
    assert migrated.stdout == "".join(
        f"{expected_line(name, 'applied', variables)}\n" for name in DATABASES
    )
    assert after.stdout.count(": up to date\n") == len(DATABASES)


MISTAKES = [
    (["migrate", "--database", "nope"], {}, "error: no database 'nope' has migrations; these"),
    (["serve"], PRODUCTION, "error: ENVIRONMENT=production needs a database"),
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
    ended = run(*arguments, variables=VARIABLES | wrong, folder=tmp_path, exit_code=1)

    assert ended.stderr.startswith(message)
    assert len(ended.stderr.splitlines()) == 1
    assert "hidden" not in ended.stderr


def test_serve_keeps_stored_data_over_a_restart_and_exits_with_zero_after_sigterm(
    variables: dict[str, str], tmp_path: Path
) -> None:
    variables |= {"MIGRATE_ON_START": "true"}

    for start in (1, 2):
        with serving("--root-path", "/api", variables=variables, folder=tmp_path) as served:
            assert httpx2.get(f"{served.url}/health/ready").status_code == 200
            assert "/health/ready" not in served.log.read_text()
            assert '"/api/docs/swagger-ui.css"' in httpx2.get(f"{served.url}/docs").text
            users = f"{served.url}{USERS}"
            httpx2.post(users, json=user_values()).raise_for_status()
            assert len(httpx2.get(users).json()["items"]) == start
            served.process.terminate()
            assert served.exit_code() == 0
