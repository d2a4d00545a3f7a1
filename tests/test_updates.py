"""Updates apply changes of the template and changed answers, and keep the owner's edits."""

import json
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.conftest import REFERENCE, SERVICE, Render, clean_environment, files
from tests.edits import replace
from tests.recording import README
from tests.servers import ForkServer
from tests.test_answers import title_and_description

pytestmark = pytest.mark.full

DESCRIPTION = 'Takes {{ orders }}, "quickly"'
NEW_FILE = "tests/models/test_user.py"
OLDER, NEWER = "pool_timeout: Seconds = 4\n", "pool_timeout: Seconds = 5\n"

ROUTE = '''

@router.get("/{user_id}/name")
async def get_name(user_id: UUID, session: ReadSessionDep) -> str:
    """The owner's."""
    return (await UserService(session).get(user_id)).name
'''


def run(folder: Path, *command: str) -> str:
    ended = subprocess.run(
        command, capture_output=True, check=False, cwd=folder, env=clean_environment(), text=True
    )
    print(ended.stdout, ended.stderr, sep="\n")
    assert ended.returncode == 0
    return ended.stdout


def commit(folder: Path) -> None:
    run(folder, "git", "add", "--all")
    run(folder, "git", "-c", "user.name=A", "-c", "user.email=a@b.org", "commit", "-qm", "x")


def cruft(folder: Path, *arguments: str) -> str:
    return run(folder, sys.executable, "-m", "cruft", *arguments)


def assert_owners_edits_are_kept(service: Path) -> None:
    assert "pool_size: int = Field(7" in (service / "app/core/database/settings.py").read_text()
    assert ROUTE in (service / "app/routers/users.py").read_text()
    assert (service / "app/owner.py").exists()
    assert not (service / "LICENSE").exists()
    assert not [*service.rglob("*.rej"), *service.rglob("*.orig")]


def assert_tests_pass(fork_server: ForkServer, service: Path, *more: str) -> None:
    """Run the tests that use all layers, and these."""
    tests = ["tests/routers", "tests/migrations", "tests/test_main.py", "tests/core/test_config.py"]
    options = ["-q", "-p", "no:cacheprovider", "--db=sqlite"]
    passed = fork_server.pytest(*options, *tests, *more, folder=service)
    assert passed.returncode == 0, passed.stdout


@pytest.fixture
def repository(template: Path, tmp_path: Path) -> Path:
    """The template in a git repository. Its tag `older` lacks a file and has another default."""
    repository = shutil.copytree(template, tmp_path / "template")
    service = repository / SERVICE
    new = (service / NEW_FILE).read_text()
    (service / NEW_FILE).unlink()
    replace(service / "app/core/database/settings.py", NEWER, OLDER)
    run(repository, "git", "init", "--quiet", "--initial-branch=main")
    commit(repository)
    run(repository, "git", "tag", "older")
    (service / NEW_FILE).write_text(new)
    replace(service / "app/core/database/settings.py", OLDER, NEWER)
    commit(repository)
    return repository


def edit(project: Path) -> None:
    """Make the owner's edits: a new route, a changed setting, a new file, a deleted file."""
    with (project / "app/routers/users.py").open("a") as router:
        router.write(ROUTE)
    replace(
        project / "app/core/database/settings.py",
        "pool_size: int = Field(20",
        "pool_size: int = Field(7",
    )
    replace(project / ".env.example", "POOL_SIZE=20", "POOL_SIZE=7")
    (project / "app/owner.py").write_text('"""The owner\'s."""\n')
    (project / "LICENSE").unlink()
    commit(project)


def test_update_with_cruft_keeps_the_edits_of_the_owner(
    fork_server: ForkServer, repository: Path, folder: Path
) -> None:
    answers = json.dumps({"project_slug": "orders", "description": DESCRIPTION})
    create = ["create", "--no-input", "--extra-context", answers, "--checkout", "older"]
    printed = cruft(folder, *create, str(repository))
    orders = folder / "orders"
    [first_commit] = re.findall("^git add.*$", printed, re.MULTILINE)
    assert first_commit in README.read_text()
    run(orders, "git", "config", "user.name", "A")
    run(orders, "git", "config", "user.email", "a@b.org")
    run(orders, "sh", "-c", first_commit)
    cruft(orders, "update", "--skip-apply-ask", "--checkout", "older")
    edit(orders)

    cruft(orders, "update", "--skip-apply-ask", "--checkout", "main")

    assert (orders / NEW_FILE).exists()
    settings = (orders / "app/core/database/settings.py").read_text()
    assert NEWER in settings
    assert title_and_description(orders) == ("Example Service", DESCRIPTION)
    cruft(orders, "check")
    assert_owners_edits_are_kept(orders)
    assert_tests_pass(fork_server, orders)


def test_changed_answer_deletes_the_files_of_the_old_one(
    fork_server: ForkServer, repository: Path, folder: Path, render: Render
) -> None:
    [command] = re.findall(r"^    cruft (update --variables.*)$", README.read_text(), re.M)
    render("--output-dir", str(folder), template=repository, project_slug="changed")
    changed = folder / "changed"
    answers = json.dumps({"project_slug": "changed"})
    cruft(changed, "link", "--no-input", "--extra-context", answers, str(repository))
    edit(changed)

    cruft(changed, *shlex.split(command), "--skip-apply-ask")

    assert not (changed / ".github" / "workflows" / "ci.yml").exists()
    for path in {*files(changed)} - {changed / ".cruft.json"}:
        assert "analytics" not in (path.name + path.read_text()).lower(), path
    assert_owners_edits_are_kept(changed)
    assert_tests_pass(fork_server, changed)


def test_contents_can_be_changed_in_both_directions(
    fork_server: ForkServer, repository: Path, folder: Path
) -> None:
    create = ["create", "--no-input", "--extra-context", json.dumps({"project_slug": "owned"})]
    cruft(folder, *create, str(repository))
    owned = folder / "owned"
    commit(owned)
    edit(owned)
    service_files = names(owned)
    (owned / "docs/ours.md").write_text("# Ours\n")
    with (owned / "docs/operations.md").open("a") as page:
        page.write("\nOurs.\n")
    commit(owned)

    change(owned, REFERENCE)

    added = names(owned) - service_files - {"docs/ours.md"}
    assert {
        "docs/transactions.md",
        "tests/docs/snippets.py",
        "tests/conformance/plugin.py",
    } <= added
    assert "](docs/transactions.md)" in (owned / "README.md").read_text()
    assert_owners_edits_are_kept(owned)
    assert (owned / "docs/operations.md").read_text().endswith("\nOurs.\n")
    assert_tests_pass(
        fork_server, owned, "tests/docs/test_readme.py", "tests/conformance/test_pool.py"
    )

    (owned / "tests/conformance/test_ours.py").write_text("def test_ours() -> None:\n    pass\n")
    commit(owned)
    change(owned, "service")

    ours = {"docs/ours.md", "tests/conformance/test_ours.py"}
    assert names(owned) == service_files | ours
    assert "](docs/transactions.md)" not in (owned / "README.md").read_text()
    assert_owners_edits_are_kept(owned)
    assert (owned / "docs/operations.md").read_text().endswith("\nOurs.\n")
    assert_tests_pass(fork_server, owned)


def change(service: Path, contents: str) -> None:
    """Change the answer to `contents`, as the service's README says."""
    command = re.search(
        r"`cruft (update --variables-to-update '.*contents.*?')`",
        (service / "README.md").read_text(),
    )
    assert command
    update = command[1].replace(REFERENCE, contents)
    cruft(service, *shlex.split(update), "--skip-apply-ask")
    commit(service)


def names(project: Path) -> set[str]:
    return {str(path.relative_to(project)) for path in files(project) if path.suffix != ".pyc"}


def test_replay_adds_new_files_and_keeps_files_of_the_owner(
    render: Render, repository: Path, tmp_path: Path
) -> None:
    run(repository, "git", "checkout", "--quiet", "older")
    render(template=repository, project_slug="orders", description=DESCRIPTION)
    orders = tmp_path / "orders"
    edit(orders)
    run(repository, "git", "checkout", "--quiet", "main")

    replayed = render("--replay", "--overwrite-if-exists", template=repository)

    assert replayed.returncode == 0, replayed.stderr
    assert (orders / NEW_FILE).exists()
    assert (orders / "app/owner.py").exists()
    assert title_and_description(orders) == ("Example Service", DESCRIPTION)
    changed = run(orders, "git", "diff", "--name-only").split()  # for the owner to review
    assert changed == [".env.example", "app/core/database/settings.py", "app/routers/users.py"]
