"""The tests of a rendered service pass after ordinary edits: each of them alone, and all together."""

from pathlib import Path

import pytest

from tests.conftest import REFERENCE, Bake, Install, make
from tests.edits import (
    EDITS,
    Edit,
    add_greeting,
    add_orders,
    add_revision,
    append,
    remove_events,
    rename_column,
    replace,
    write,
)
from tests.servers import NO_DOCKER, ForkServer

pytestmark = pytest.mark.full

# The other pages are examples that name the paths and tables of the service as it is rendered.
OF_REFERENCE = [
    "tests/conformance",
    *(f"tests/docs/test_{name}.py" for name in ("pages", "readme", "sessions")),
]


@pytest.mark.parametrize("edit", EDITS, ids=lambda edit: edit.__name__)
def test_suite_passes_after_one_edit(bake: Bake, fork_server: ForkServer, edit: Edit) -> None:
    service = bake()
    if edit is rename_column:
        add_orders(service)
    edit(service)

    ended = fork_server.pytest("-q", "--db=sqlite", folder=service)

    assert ended.returncode == 0, ended.stdout
    assert "not tested with rows" not in ended.stdout


def test_edits_that_remove_a_database_leave_the_compose_file_of_one_database(bake: Bake) -> None:
    service = bake()

    remove_events(service)

    one = bake(databases="primary")
    assert (service / "compose.yaml").read_text() == (one / "compose.yaml").read_text()


def test_check_and_suite_pass_on_both_databases_after_all_edits(
    bake: Bake, install: Install
) -> None:
    service = install(bake())
    for edit in EDITS:
        edit(service)

    make(service, "format", "check", "test", variables=NO_DOCKER)


def test_reference_passes_after_edits(bake: Bake, fork_server: ForkServer) -> None:
    service = bake(contents=REFERENCE)
    for edit in EDITS:
        if edit is not remove_events:  # there, a team renders the service again with one database
            edit(service)

    ended = fork_server.pytest("-q", "-m not load", "--db=sqlite", *OF_REFERENCE, folder=service)

    assert ended.returncode == 0, ended.stdout


def forget_example(project: Path) -> None:
    add_greeting(project)
    replace(project / ".env.example", "GREETING=Hello\n", "")


def block(project: Path) -> None:
    append(
        project / "app/routers/users.py",
        '\n\n@router.get("/{user_id}/name")\ndef get_name(user_id: UUID) -> str:\n'
        "    return str(user_id)\n",
    )


def forget_secret(project: Path) -> None:
    add_greeting(project)
    replace(project / "deploy/README.md", "SIGNING_KEY=secret\n", "")


def forget_revision(project: Path) -> None:
    field = "    nickname: Mapped[str | None]\n"
    replace(project / "app/models/user.py", "    version: Mapped", f"{field}    version: Mapped")


def merge_branches(project: Path) -> None:
    add_revision(project, "d1", "    pass\n", "    pass\n")
    [first] = project.glob("app/migrations/primary/*_d1.py")
    write(first.with_name("20270102_d2.py"), first.read_text().replace("d1", "d2"))


def forget_index(project: Path) -> None:
    model = project / "app/models/user.py"
    replace(model, "import Index, String, Uuid", "import Index, String, Uuid, func")
    append(model, '\n\nIndex("ix_users_lower_email", func.lower(User.email))\n')


MISTAKES = [
    (
        forget_example,
        "tests/core/test_config.py",
        "add to .env.example a line NAME=default and a comment for: ['GREETING']",
    ),
    (
        forget_secret,
        "tests/conformance/deploy",
        "set SIGNING_KEY in production: add it to the Secret in deploy/README.md",
    ),
    (
        forget_revision,
        "tests/migrations",
        "run `make migrate`, then `make revision DATABASE=primary",
    ),
    (
        merge_branches,
        "tests/migrations",
        "'primary' has 2 heads, d1 and d2: join them with `alembic -n primary merge heads",
    ),
    (
        forget_index,
        "tests/migrations",
        "create the indexes {'ix_users_lower_email'} in a revision",
    ),
    (
        block,
        "tests/conformance/routers/test_threads.py",
        "/users/{user_id}/name runs get_name of app.routers.users in a thread: write it as `async def`",
    ),
]


@pytest.mark.parametrize(("mistake", "test", "message"), MISTAKES)
def test_failure_says_what_to_do(
    bake: Bake, fork_server: ForkServer, mistake: Edit, test: str, message: str
) -> None:
    service = bake(contents=REFERENCE)
    mistake(service)

    ended = fork_server.pytest("-q", "--db=sqlite", test, folder=service)

    assert ended.returncode == 1
    assert message in ended.stdout
