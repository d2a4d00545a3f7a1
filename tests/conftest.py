"""Fixtures: bake renders the template; project and reference are rendered and installed."""

import fcntl
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import mkdtemp
from typing import Any

import pytest
import yaml
from cookiecutter.main import cookiecutter
from uv import find_uv_bin
from xdist.scheduler import LoadScopeScheduling

pytest_plugins = ["tests.servers", "tests.time_line"]

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
Environment = Callable[..., Path]
Install = Callable[..., Path]
Rendered = subprocess.CompletedProcess[str]
Render = Callable[..., Rendered]


class Scopes(LoadScopeScheduling):  # type: ignore[misc]
    """The groups of tests that one process runs in turn: a file, or all tests that count containers.

    In the files of INDEPENDENT each test is a group, because each takes long and they share no fixture but the
    environment. The mark of pytest-xdist, `xdist_group`, has no effect with pytest 9.2.
    """

    def _split_scope(self, nodeid: str) -> str:
        return scope(nodeid)


INDEPENDENT = {"test_edits", "test_generated", "test_recipes", "test_updates"}
# The long groups first, so that all processes end at about the same time.
FIRST = [
    "test_mutations",
    "test_generated",
    "containers",
    "test_harness",
    "test_edits",
    "test_updates",
]


def scope(nodeid: str) -> str:
    file, _, test = nodeid.partition("::")
    name = Path(file).stem
    if (
        name == "test_container"
        or "container" in test
        or test == "test_reference_with_one_database_without_uv"
    ):
        return "containers"
    return nodeid if name in INDEPENDENT else name


def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> Scopes:
    config.option.loadscopereorder = False
    return Scopes(config, log)


@pytest.hookimpl(trylast=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    def position(item: pytest.Item) -> int:
        name = Path(scope(item.nodeid).partition("::")[0]).stem
        return FIRST.index(name) if name in FIRST else len(FIRST)

    items.sort(key=position)


shared_folder = pytest.StashKey[Path]()


def pytest_configure(config: pytest.Config) -> None:
    """Create the folder that the processes of `make test` share, or find it."""
    worker_input: dict[str, str] = getattr(config, "workerinput", {})
    folder = worker_input.get("folder")
    config.stash[shared_folder] = Path(folder) if folder else readable(mkdtemp(prefix="baked-"))
    # mypy spends most of its time on the packages, which are the same for all projects.
    worker = worker_input.get("workerid", "main")
    os.environ["MYPY_CACHE_DIR"] = str(config.stash[shared_folder] / f"mypy-{worker}")


@pytest.hookimpl(optionalhook=True)
def pytest_configure_node(node: Any) -> None:
    node.workerinput["folder"] = str(node.config.stash[shared_folder])


def pytest_unconfigure(config: pytest.Config) -> None:
    if not hasattr(config, "workerinput"):
        shutil.rmtree(config.stash[shared_folder], ignore_errors=True)


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
def hook() -> dict[str, Any]:
    """The names that the hook defines. Its actions do not run."""
    source = (ROOT / "hooks/post_gen_project.py").read_text()
    source = source.replace("{{ cookiecutter | tojson }}", "{}").partition(
        "\ndelete_files_of_other_answers"
    )[0]
    names: dict[str, Any] = {}
    exec(source, names)
    return names


@pytest.fixture(scope="session")
def varying(template: Path, hook: dict[str, Any], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of the template with only those files of the service whose text depends on answers.

    It is rendered in a quarter of the time. The other files have the same text for all answers.
    """
    copy = shutil.copytree(template, tmp_path_factory.mktemp("varying") / "template")
    for path in files(copy / SERVICE):
        changed_by_hook = path.name.startswith("LICENSE.") or (
            path.relative_to(copy / SERVICE).as_posix() in hook["PAGES"]
        )
        if not changed_by_hook and "cookiecutter" not in path.read_text(encoding="utf-8"):
            path.unlink()
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
def folder(pytestconfig: pytest.Config) -> Path:
    """A folder for projects that every user may read. The processes of `make test` share it.

    If root runs the tests, PostgreSQL runs as another user and reads its programs from here. A folder
    of pytest's `tmp_path` does not work: a pytest inside it makes it private.
    """
    return pytestconfig.stash[shared_folder]


def readable(folder: str) -> Path:
    """Let every user read a folder that `mkdtemp` has made."""
    Path(folder).chmod(0o755)
    return Path(folder)


@contextmanager
def locked(path: Path) -> Iterator[None]:
    """Hold a lock that only one of the processes of `make test` can hold."""
    with path.with_name(f"{path.name}.lock").open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)  # closing the file releases the lock
        yield


@pytest.fixture(scope="session")
def bake(template: Path, cookiecutter_config: Path, folder: Path) -> Bake:
    """Render the template. Answers that are not given are the defaults.

    The same answers are rendered once. Each call returns a new copy.
    """
    rendered: dict[tuple[tuple[str, str], ...], Path] = {}
    defaults = {name: d[0] if isinstance(d, list) else d for name, d in QUESTIONS.items()}

    def bake(**answers: str) -> Path:
        unknown = answers.keys() - QUESTIONS.keys()
        assert not unknown, f"no such question: {unknown}"
        key = tuple((defaults | answers).items())
        if key not in rendered:
            project = cookiecutter(
                str(template),
                config_file=str(cookiecutter_config),
                extra_context=answers,
                no_input=True,
                output_dir=str(readable(mkdtemp(dir=folder))),
            )
            rendered[key] = Path(project)
        return shutil.copytree(
            rendered[key], readable(mkdtemp(dir=folder)) / rendered[key].name, symlinks=True
        )

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
def environment(bake: Bake, folder: Path) -> Environment:
    """Return an environment of the service for this Python, installed by its own Makefile once per run.

    All services have the same dependencies, so that a link to it is an environment of any of them.
    """

    def environment(python: str = sys.executable) -> Path:
        installed = folder / f"environment-{python.replace(os.sep, '-')}"
        with locked(installed):
            if not installed.exists():
                project = bake()
                make(project, ".venv/ready", f"PYTHON={python}")
                installed.symlink_to(project / ".venv")
        return installed.readlink()

    return environment


@pytest.fixture(scope="session")
def install(environment: Environment) -> Install:
    """Give a project the environment for this Python, and return the project."""

    def install(project: Path, python: str = sys.executable) -> Path:
        (project / ".venv").symlink_to(environment(python))
        (project / ".venv/ready").touch()  # newer than the pyproject.toml of this project
        return project

    return install


@pytest.fixture(scope="session")
def project(bake: Bake, install: Install) -> Path:
    """The service with the default answers and an environment."""
    return install(bake())


@pytest.fixture(scope="session")
def reference(bake: Bake, install: Install) -> Path:
    """The service with the reference and an environment."""
    return install(bake(contents=REFERENCE))


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
        *("MYPY_CACHE_DIR", "REQUIRE_PGBOUNCER", "UV_REFRESH", "UV_RESOLUTION"),
    )
    return {name: os.environ[name] for name in kept if name in os.environ} | variables
