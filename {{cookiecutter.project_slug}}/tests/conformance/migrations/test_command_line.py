"""The command line: ten processes at once, one database alone, SQL, and mistakes."""

import asyncio
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from alembic.script import ScriptDirectory

from app import migrations
from app.core.config import variable
from tests.conformance.inspection import execute_script
from tests.conformance.processes import ALEMBIC, APP, run_all
from tests.harness.postgresql import Server
from tests.processes import DATABASES, ROOT, VARIABLES, expected_line, run


def test_one_database_can_be_migrated_alone(variables: dict[str, str], tmp_path: Path) -> None:
    migrated = run("migrate", "--database", "primary", variables=variables, folder=tmp_path)

    assert migrated.stdout.strip() == expected_line("primary", "applied", variables)
    after = run("check", variables=variables, folder=tmp_path, exit_code=int(len(DATABASES) > 1))
    assert len(DATABASES) - 1 == after.stdout.count(" pending: ")


def test_printed_sql_does_what_migrate_would_do(variables: dict[str, str], tmp_path: Path) -> None:
    arguments = ["migrate", "--database", "primary", "--sql"]
    written = run(*arguments, variables=variables, folder=tmp_path, exit_code=None)
    url = variables.get(variable("primary"), f"sqlite:///{tmp_path}/var/primary.db")
    revisions = (migrations.FOLDER / "primary").glob("*.py")
    copies_a_table = any("batch_alter_table" in path.read_text() for path in revisions)
    if copies_a_table and url.startswith("sqlite"):
        assert re.fullmatch(
            r"error: .+\.py, line \d+, has to read .+ --database \w+`\n", written.stderr
        )
        assert re.fullmatch("-- primary .*\n", written.stdout)
        assert written.returncode == 1
        return
    assert written.returncode == 0, written.stderr
    asyncio.run(execute_script(url, written.stdout))

    run("check", "--database", "primary", variables=variables, folder=tmp_path)


@pytest.mark.load
def test_concurrent_processes_apply_each_revision_once(
    variables: dict[str, str], tmp_path: Path
) -> None:
    command = [sys.executable, "-m", "app", "migrate"]
    processes = [
        subprocess.Popen(
            command,
            cwd=tmp_path,
            env=variables,
            stderr=subprocess.STDOUT,
            stdout=subprocess.PIPE,
            text=True,
        )
        for _ in range(10)
    ]
    lines = [line for process in processes for line in process.communicate()[0].splitlines()]

    assert [0] * 10 == [process.returncode for process in processes], lines
    assert [line for line in sorted(lines) if not line.endswith(": nothing to do")] == [
        expected_line(name, "applied", variables) for name in DATABASES
    ]


def test_serve_does_not_start_if_it_cannot_migrate(tmp_path: Path) -> None:
    wrong = {"MIGRATE_ON_START": "true", "DATABASE_URL": "postgresql://u:hidden@127.0.0.1:1/d"}
    ended = run(
        "serve", "--workers", "2", variables=VARIABLES | wrong, folder=tmp_path, exit_code=1
    )

    assert ended.stderr.splitlines()[-1].startswith("error: the database 'primary' cannot be used")
    assert "hidden" not in ended.stderr


MISTAKES = [
    (["check"], {"ENVIRONMENT": "prod"}, "error: ENVIRONMENT: Input should be 'local', "),
    (
        ["migrate", "--database", "primary"],
        {"DATABASES__PRIMARY__PGBOUNCER": "yes", "DATABASE_URL": "postgresql://u:hidden@h/d"},
        "error: migrations need a lock, which PgBouncer cannot hold: "
        "set DATABASES__PRIMARY__MIGRATION_DATABASE_URL\n",
    ),
    (["check"], {"DATABASE_URL": "mysql://u:hidden@h/d"}, "error: DATABASE_URL: the database"),
]


@pytest.mark.parametrize(("arguments", "wrong", "message"), MISTAKES)
def test_mistake_is_reported_in_one_sentence(
    tmp_path: Path, arguments: list[str], wrong: dict[str, str], message: str
) -> None:
    ended = run(*arguments, variables=VARIABLES | wrong, folder=tmp_path, exit_code=1)

    assert ended.stderr.startswith(message)
    assert len(ended.stderr.splitlines()) == 1
    assert "hidden" not in ended.stderr


def copy_project(folder: Path) -> None:
    for name in ("app", "tests/harness"):
        shutil.copytree(ROOT / name, folder / name)
    for name in ("alembic.ini", "pyproject.toml", "tests/__init__.py"):
        shutil.copy(ROOT / name, folder / name)


@pytest.mark.postgresql
def test_revision_is_written_on_postgresql_and_applied_on_sqlite(
    postgresql: Server, tmp_path: Path
) -> None:
    copy_project(tmp_path)
    with (tmp_path / "app/models/user.py").open("a") as model:
        model.write("import sqlalchemy\nIndex('uq', sqlalchemy.func.lower(User.email))\n")
    variables = VARIABLES | {"PYTHONPATH": ".", "DATABASE_URL": "sqlite:///primary.db"}

    def revise(**others: str) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-m", "tests.harness.revision", "primary", "index"]
        return subprocess.run(
            command,
            capture_output=True,
            check=False,
            cwd=tmp_path,
            env=variables | others,
            text=True,
        )

    server = postgresql.url("revision_test")
    written = revise(TEST_DATABASE_URL=server)

    assert written.returncode == 0, written.stderr
    [made] = (tmp_path / "app/migrations/primary").glob("*_index.py")
    assert "lower(email)" in made.read_text()
    run("migrate", variables=variables, folder=tmp_path)
    again = revise(TEST_DATABASE_URL=server)
    assert "autogenerate found no difference" in again.stderr + again.stdout
    unknown = revise(TEST_POSTGRES="other")
    assert unknown.stderr == "error: TEST_POSTGRES='other' is not known: write docker or embedded\n"
    names = "SELECT datname FROM pg_database WHERE datname LIKE 'revision%'"
    connection = postgresql.connect()
    assert postgresql.run(connection.fetch(names)) == []
    postgresql.run(connection.close())


def alembic(*commands: str, folder: Path) -> tuple[list[str], str]:
    """Run commands of Alembic on the primary database. Return their outputs and the standard error."""
    section = [f"-n primary {command}" for command in commands]
    return run_all(ALEMBIC, *section, variables=VARIABLES | {"PYTHONPATH": "."}, folder=folder)


READ_HEADS = ["heads", "branches", "current", "history", "history -i", "show heads", "show current"]


def test_two_heads_can_be_listed_and_are_refused_until_they_are_merged(tmp_path: Path) -> None:
    copy_project(tmp_path)
    run("migrate", variables=VARIABLES, folder=tmp_path)
    [base] = ScriptDirectory.from_config(migrations.config("primary")).get_heads()
    for name in ("left", "right"):
        lines = [f"revision, down_revision = {name!r}, {base!r}"]
        lines += ["def upgrade() -> None: ...", "def downgrade() -> None: ..."]
        (tmp_path / f"app/migrations/primary/{name}.py").write_text("\n".join(lines))

    outputs, error = alembic(*READ_HEADS, folder=tmp_path)
    assert (len(READ_HEADS), "") == (len(outputs), error)
    assert "exit code" not in "".join(outputs)
    assert "left" in outputs[READ_HEADS.index("history -i")]

    refused = (
        "'primary' has 2 heads, left and right: join them with "
        "`alembic -n primary merge heads -m merge`\n"
    )
    changing = ("upgrade head", "upgrade heads", "revision --autogenerate")
    outputs, _ = alembic(*changing, folder=tmp_path)
    assert outputs == [f"FAILED: {refused}exit code -1\n"] * 3
    ended = run("migrate", variables=VARIABLES, folder=tmp_path, exit_code=1)
    assert ended.stderr == f"error: {refused}"

    [line] = re.findall("`alembic -n primary (.*)`", refused)
    [output], _ = alembic(line, folder=tmp_path)
    assert "exit code" not in output
    run("migrate", variables=VARIABLES, folder=tmp_path)


def test_path_with_a_separator_and_a_percent_sign(tmp_path: Path) -> None:
    folder = tmp_path / f"a{os.pathsep}b%c"
    copy_project(folder)
    variables = VARIABLES | {"PYTHONPATH": "."}
    primary = folder / "app/migrations/primary"

    run("migrate", variables=variables, folder=folder)
    run("check", variables=variables, folder=folder)
    shipped = {*primary.glob("*.py")}
    command = [sys.executable, "-m", "alembic", "-n", "primary", "revision", "-m", "empty"]
    subprocess.run(command, check=True, cwd=folder, env=variables)

    [empty] = {*primary.glob("*.py")} - shipped
    assert "import sqlalchemy as sa\nfrom alembic import op\n" in empty.read_text()
    linted = [sys.executable, "-m", "ruff", "check", "--no-cache", str(empty)]
    subprocess.run(linted, check=True, cwd=folder)


def test_missing_revisions_have_the_advice_that_fits(tmp_path: Path) -> None:
    copy_project(tmp_path)
    variables = VARIABLES | {"PYTHONPATH": "."}
    found = f"error: no database has a revision in {tmp_path}/app/migrations: "
    for revision in (tmp_path / "app/migrations").glob("*/*.py"):
        revision.rename(revision.with_name("__init__.py"))

    advice = 'write the first one with `make revision MESSAGE="create tables"`'
    outputs, error = run_all(APP, "migrate", "check", variables=variables, folder=tmp_path)
    assert (outputs, error) == ([f"{found}{advice}\n"] * 2, "")

    for database in DATABASES:
        shutil.rmtree(tmp_path / "app/migrations" / database)
    outputs, _ = run_all(APP, "migrate", "check", variables=variables, folder=tmp_path)
    missing = f"{found}add the folders of the revisions, which are missing"
    assert [True, True] == [output.startswith(missing) for output in outputs]

    [output], error = alembic("revision --autogenerate -m tables", folder=tmp_path)
    if (
        "expression-based index" in output + error
    ):  # the models have one, which needs `make revision`
        assert "exit code" in output
    else:
        assert "exit code" not in output, error
        run("migrate", variables=variables, folder=tmp_path)
