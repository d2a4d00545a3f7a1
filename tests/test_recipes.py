"""The instructions of the rendered README work when they are followed exactly."""

import re
import shutil
from pathlib import Path

import pytest

from tests.conftest import QUESTIONS, ROOT, SERVICE, Bake, Install, make
from tests.edits import add_database, append, register, section
from tests.servers import ForkServer

pytestmark = pytest.mark.full


def test_instructions_add_a_resource(bake: Bake, install: Install) -> None:
    project = install(bake())
    statements = re.findall(r"`((?:from|app\.)[^`/]+)`", section(project, "Add a resource"))
    register_model, import_router, include_router = statements

    layers = ("models", "repositories", "services", "schemas")
    for path in [*(f"app/{layer}/user.py" for layer in layers), "app/routers/users.py"]:
        copy_with_new_names(project, path)
    copy_with_new_names(project, "tests/routers/test_users.py")
    support = project / "tests/support.py"
    [values] = re.findall(r"def user_values.*?\n\n\n", support.read_text(), re.DOTALL)
    append(support, f"\n\n{new_names(values)}")
    with (project / "app/models/__init__.py").open("a") as models:
        models.write(f"{register_model}\n")
    register(project, import_router, include_router)

    make(project, "migrate")
    make(project, "revision", "MESSAGE=create orders")
    made = make(project, "migrate")
    assert re.search(r"^primary \(.*\): 1 applied: \w+$", made.stdout, re.M)
    tests = "tests/routers/test_orders.py tests/migrations"
    make(project, "format", "check", "test", f"ARGS=--db=sqlite {tests}")


def copy_with_new_names(project: Path, path: str) -> None:
    (project / path.replace("user", "order")).write_text(new_names((project / path).read_text()))


def new_names(source: str) -> str:
    return source.replace("user", "order").replace("User", "Order")


def test_instructions_add_a_database(bake: Bake, install: Install) -> None:
    project = install(bake())
    add_database(project)

    refused = make(project, "revision", "DATABASE=nope", "MESSAGE=x", check=False)
    assert refused.stderr.startswith("error: DATABASE=nope has no section in alembic.ini: ")
    make(project, "revision", "DATABASE=logging", "MESSAGE=create entries")
    made = make(project, "migrate")
    assert re.search(r"^logging \(.*\): 1 applied: \w+$", made.stdout, re.M)
    # test_edits.py runs the checks and the whole suite with another database.
    tests = "tests/routers/test_entries.py tests/migrations tests/core/test_config.py"
    make(project, "test", f"ARGS=--db=sqlite {tests}")


DELETIONS = re.findall(r"^- (.*)[.:]", section(ROOT / SERVICE, "Optional files"), re.M)


@pytest.mark.parametrize("contents", QUESTIONS["contents"])
@pytest.mark.parametrize("item", DELETIONS)
def test_optional_files_may_be_deleted(
    bake: Bake, fork_server: ForkServer, item: str, contents: str
) -> None:
    project = bake(contents=contents)
    paths = [project / name for name in re.findall(r"`([^`]+)`", item)]
    for path in paths:
        assert path.exists() or path.name == ".gitlab-ci.yml"  # rendered only for ci=gitlab
        if path.is_dir():
            shutil.rmtree(path)
        else:
            path.unlink(missing_ok=True)

    # These tests read the optional files. The others read only code, and take most of the time.
    names = ["conformance/deploy", "test_main.py", "docs/test_pages.py"]
    tests = [f"tests/{name}" for name in names if (project / "tests" / name).exists()]
    ended = fork_server.pytest("--db=sqlite", *tests, folder=project)

    assert ended.returncode == 0, ended.stdout
