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

# For make. The load tests of the reference take half a minute: one test runs them.
QUIET = 'ARGS=-m "not load"'

# Where hundreds of projects are rendered: to make a file on a disk may take a millisecond.
IN_MEMORY = "/dev/shm" if Path("/dev/shm").is_dir() else None

Bake = Callable[..., Path]
Rendered = subprocess.CompletedProcess[str]
Render = Callable[..., Rendered]


class Lanes(LoadScopeScheduling):  # type: ignore[misc]
    """What runs in which of the two processes of `make test`: most tests wait for half of their time.

    One of them has what starts servers of its own, listens on a port or counts processes and containers.
    pytest-xdist's own way, a mark, does nothing with pytest 9.2.
    """

    with_servers = (
        *("test_audit", "test_container", "test_docs_page", "test_generated", "test_harness"),
        "test_smoke",
    )
    without = ("test_on_another_python", "test_one_database_without_uv")  # to weigh as much

    def _split_scope(self, nodeid: str) -> str:
        file, _, test = nodeid.partition("::")
        among_them = Path(file).stem in self.with_servers and not test.startswith(self.without)
        return "with servers" if among_them else "without"


def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> Lanes:
    return Lanes(config, log)


@pytest.fixture(scope="session", autouse=True)
def git_of_nobody() -> Iterator[None]:
    """A git that does not know who runs the tests."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("GIT_CONFIG_GLOBAL", os.devnull)
        patch.setenv("GIT_CONFIG_NOSYSTEM", "1")
        yield


def files(project: Path) -> list[Path]:
    return [p for p in project.rglob("*") if p.is_file() and ".git" not in p.parts]


def tracked_files(folder: Path = ROOT) -> list[Path]:
    """Return what git knows of the folder, or would if it were added: no caches, no databases."""
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
    """A copy of the template, as somebody who clones it gets it."""
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
    """A folder for projects; not pytest's own, which each pytest within it closes to all others.

    As root, the server of the rendered tests runs as another user, who must get at its programs.
    """
    with TemporaryDirectory(prefix="baked-") as folder:
        yield Path(folder)


@pytest.fixture(scope="session")
def bake(template: Path, cookiecutter_config: Path, folder: Path) -> Bake:
    """Render the template; answers that are not given are the defaults."""

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
    """Render into the test's own folder as a person does, on the command line, there."""

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
    """The service that the default answers give, in an environment made by its own Makefile."""
    project = bake()
    make(project, ".venv/ready")
    return project


@pytest.fixture(scope="session")
def reference(bake: Bake) -> Path:
    """The service and the reference, in an environment of their own."""
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
    """Run make with an environment that knows nothing of this one, with uv or without it."""
    made = subprocess.run(
        ["make", "--no-print-directory", f"UV={UV if uv else ''}", *arguments],
        capture_output=True,
        check=False,
        cwd=project,
        env=clean_environment(**variables or {}),
        text=True,
    )
    print(made.stdout, made.stderr, sep="\n")
    assert not check or made.returncode == 0, f"make {' '.join(arguments)} has failed"
    return made


def clean_environment(**variables: str) -> dict[str, str]:
    """Return what a machine has, Docker and a choice of versions included, and these variables."""
    kept = (
        *("DOCKER_HOST", "HOME", "LANG", "PATH", "SSL_CERT_DIR", "SSL_CERT_FILE", "TMPDIR"),
        *("REQUIRE_PGBOUNCER", "UV_REFRESH", "UV_RESOLUTION"),
    )
    return {name: os.environ[name] for name in kept if name in os.environ} | variables
