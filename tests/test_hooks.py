"""The hooks create a repository, print the next steps, and keep the owner's files."""

import subprocess
from pathlib import Path

import pytest

from tests.conftest import Bake, Render, files


def git(folder: Path, *arguments: str) -> str:
    return subprocess.run(
        ["git", *arguments], capture_output=True, check=True, cwd=folder, text=True
    ).stdout


def test_next_steps_are_three_lines_with_the_real_folder(render: Render) -> None:
    rendered = render(project_name="Order Service")

    assert rendered.stdout.strip().splitlines() == [
        "cd order-service",
        "make run    # http://127.0.0.1:8000/docs, on SQLite",
        "make test",
    ]


def test_rendering_again_keeps_local_files_of_the_owner(render: Render, tmp_path: Path) -> None:
    render("--overwrite-if-exists")
    made = [".env", ".venv/bin/python", "var/primary.db", ".mypy_cache/x", "app/__pycache__/x.pyc"]
    for name in made:
        path = tmp_path / "example-service" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("the owner's")

    rendered = render("--overwrite-if-exists")

    assert rendered.returncode == 0, rendered.stderr
    for name in made:
        assert (tmp_path / "example-service" / name).read_text() == "the owner's"


def test_new_repository_has_one_commit_of_all_files(bake: Bake) -> None:
    project = bake(author_name="Ada", author_email="ada@example.com")

    assert git(project, "log", "--format=%an <%ae> %s") == (
        "Ada <ada@example.com> Begin with dbwarden-template\n"
    )
    assert git(project, "status", "--porcelain", "--untracked-files=all") == ""
    assert set(git(project, "ls-files").splitlines()) == {
        str(path.relative_to(project)) for path in files(project)
    }


def test_first_commit_ignores_git_hooks_and_signing_of_the_user(
    render: Render, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    hook = tmp_path / "hooks" / "pre-commit"
    hook.parent.mkdir()
    hook.write_text("#!/bin/sh\nexit 1\n")
    hook.chmod(0o755)
    config = tmp_path / "config"
    config.write_text(f"[core]\nhooksPath = {hook.parent}\n[commit]\ngpgSign = true\n")
    monkeypatch.setenv("GIT_CONFIG_GLOBAL", str(config))

    render()

    assert git(tmp_path / "example-service", "rev-list", "--count", "HEAD") == "1\n"


def test_rendering_again_removes_only_files_of_the_template(render: Render, tmp_path: Path) -> None:
    answers = {"databases": "primary", "ci": "none", "project_slug": "orders"}
    render(**answers)
    made = [".github/ISSUE_TEMPLATE/a.md", "LICENSE.fonts", "app/routers/orders.py", ".env"]
    made += ["docs/ours.md", "tests/routers/test_orders.py"]
    for name in made:
        (tmp_path / "orders" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "orders" / name).write_text("the owner's")

    rendered = render("--overwrite-if-exists", **answers)

    assert rendered.returncode == 0, rendered.stderr
    for name in made:
        assert (tmp_path / "orders" / name).read_text() == "the owner's"
    assert not (tmp_path / "orders" / ".github" / "workflows").exists()


def test_git_variables_of_the_environment_are_ignored(
    render: Render, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("GIT_DIR", str(tmp_path / "nowhere"))
    monkeypatch.setenv("GIT_INDEX_FILE", str(tmp_path / "index"))
    render()
    monkeypatch.undo()

    assert git(tmp_path / "example-service", "status", "--porcelain") == ""


def test_first_commit_works_with_an_author_that_git_refuses(bake: Bake) -> None:
    assert git(bake(author_name="."), "log", "--format=%an") == "example-service\n"


def test_no_repository_is_created_inside_another(render: Render, tmp_path: Path) -> None:
    git(tmp_path, "init", "--quiet")
    render()

    assert (tmp_path / "example-service" / "app").is_dir()
    assert not (tmp_path / "example-service" / ".git").exists()


def test_rendering_works_without_git(
    render: Render, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))

    rendered = render()

    assert rendered.returncode == 0
    assert not (tmp_path / "example-service" / ".git").exists()
