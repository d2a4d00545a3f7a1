"""Fixtures: bake renders the template; project and reference are rendered and installed."""

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from tempfile import TemporaryDirectory, mkdtemp
from typing import Any

import pytest
import yaml
from cookiecutter.main import cookiecutter
from uv import find_uv_bin
from xdist.scheduler import LoadScopeScheduling

ROOT = Path(__file__).parents[1]
SERVICE = "{{cookiecutter.project_slug}}"
QUESTIONS: dict[str, Any] = {
    name: default
    for name, default in json.loads((ROOT / "cookiecutter.json").read_text()).items()
    if not name.startswith("_")
}

REFERENCE = "service + reference"

UV = find_uv_bin()

# An argument of make. The load tests of the reference take half a minute: only one test runs them.
QUIET = 'ARGS=-m "not load"'

# A folder in memory for hundreds of projects: on a disk, to create a file may take a millisecond.
IN_MEMORY = "/dev/shm" if Path("/dev/shm").is_dir() else None

Bake = Callable[..., Path]
Rendered = subprocess.CompletedProcess[str]
Render = Callable[..., Rendered]


class Lanes(LoadScopeScheduling):  # type: ignore[misc]
    """Two groups of tests, one for each process of `make test`.

    Tests that start servers, listen on a port, or count processes and containers are in one group, so
    that they never run at the same time. The mark of pytest-xdist, `xdist_group`, has no effect with pytest 9.2.
    """

    with_servers = (
        *("test_audit", "test_container", "test_docs_page", "test_generated", "test_harness"),
        "test_smoke",
    )
    without = (
        "test_on_another_python",
        "test_one_database_without_uv",
    )  # balances the groups

    def _split_scope(self, nodeid: str) -> str:
        file, _, test = nodeid.partition("::")
        uses_servers = Path(file).stem in self.with_servers and not test.startswith(self.without)
        return "with servers" if uses_servers else "without"


def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> Lanes:
    return Lanes(config, log)


@pytest.fixture(scope="session", autouse=True)
def git_without_configuration() -> Iterator[None]:
    """Hide the git configuration of the user who runs the tests."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("GIT_CONFIG_GLOBAL", os.devnull)
        patch.setenv("GIT_CONFIG_NOSYSTEM", "1")
        yield


def files(project: Path) -> list[Path]:
    return [p for p in project.rglob("*") if p.is_file() and ".git" not in p.parts]


def tracked_files(folder: Path = ROOT) -> list[Path]:
    """Return the files of the folder that git does not ignore: no caches, no databases."""
    names = subprocess.run(
        ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"],
        capture_output=True,
        check=True,
        cwd=folder,
        text=True,
    ).stdout.split("\0")
    return [folder / name for name in names if name and (folder / name).exists()]


@pytest.fixture(scope="session")
def template(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of the template, with the files that a clone has."""
    copy = tmp_path_factory.mktemp("template")
    for path in tracked_files():
        target = copy / path.relative_to(ROOT)
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy2(path, target)
    return copy


@pytest.fixture(scope="session")
def cookiecutter_config(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A configuration that keeps Cookiecutter's own files out of the home folder."""
    folder = tmp_path_factory.mktemp("cookiecutter")
    config = folder / "config.yaml"
    config.write_text(
        yaml.safe_dump(
            {"cookiecutters_dir": str(folder / "templates"), "replay_dir": str(folder / "replay")}
        )
    )
    return config


@pytest.fixture(scope="session")
def folder() -> Iterator[Path]:
    """A folder for projects that every user may read.

    If root runs the tests, PostgreSQL runs as another user and reads its programs from here. A folder
    of pytest's `tmp_path` does not work: a pytest inside it makes it private.
    """
    with TemporaryDirectory(prefix="baked-") as folder:
        yield Path(folder)


@pytest.fixture(scope="session")
def bake(template: Path, cookiecutter_config: Path, folder: Path) -> Bake:
    """Render the template. Answers that are not given are the defaults."""

    def bake(**answers: str) -> Path:
        unknown = answers.keys() - QUESTIONS.keys()
        assert not unknown, f"no such question: {unknown}"
        project = cookiecutter(
            str(template),
            config_file=str(cookiecutter_config),
            extra_context=answers,
            no_input=True,
            output_dir=mkdtemp(dir=folder),
        )
        return Path(project)

    return bake


@pytest.fixture
def render(template: Path, cookiecutter_config: Path, tmp_path: Path) -> Render:
    """Run Cookiecutter's command line in the folder of the test."""

    def render(
        *options: str,
        template: Path | str = template,
        config: Path = cookiecutter_config,
        typed: str | None = None,
        **answers: str,
    ) -> Rendered:
        return subprocess.run(
            [
                *(sys.executable, "-m", "cookiecutter", str(template)),
                *(["--no-input"] if typed is None and "--replay" not in options else []),
                *("--config-file", str(config), *options),
                *(f"{name}={value}" for name, value in answers.items()),
            ],
            capture_output=True,
            check=False,
            cwd=tmp_path,
            input=typed,
            text=True,
        )

    return render


@pytest.fixture(scope="session")
def project(bake: Bake) -> Path:
    """The service with the default answers, installed by its own Makefile."""
    project = bake()
    make(project, ".venv/ready")
    return project


@pytest.fixture(scope="session")
def reference(bake: Bake) -> Path:
    """The service with the reference, installed by its own Makefile."""
    reference = bake(contents=REFERENCE)
    make(reference, ".venv/ready")
    return reference


def make(
    project: Path,
    *arguments: str,
    uv: bool = True,
    check: bool = True,
    variables: dict[str, str] | None = None,
) -> subprocess.CompletedProcess[str]:
    """Run make with `clean_environment()`, with uv or without it."""
    made = subprocess.run(
        ["make", "--no-print-directory", f"UV={UV if uv else ''}", *arguments],
        capture_output=True,
        check=False,
        cwd=project,
        env=clean_environment(**variables or {}),
        text=True,
    )
    print(made.stdout, made.stderr, sep="\n")
    assert not check or made.returncode == 0, f"make {' '.join(arguments)} failed"
    return made


def clean_environment(**variables: str) -> dict[str, str]:
    """Return these variables and those of the machine: its paths, Docker, the choice of versions."""
    kept = (
        *("DOCKER_HOST", "HOME", "LANG", "PATH", "SSL_CERT_DIR", "SSL_CERT_FILE", "TMPDIR"),
        *("REQUIRE_PGBOUNCER", "UV_REFRESH", "UV_RESOLUTION"),
    )
    return {name: os.environ[name] for name in kept if name in os.environ} | variables
