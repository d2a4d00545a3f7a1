"""Builds and runs the image, and the stack of compose.yaml."""

import os
import re
import tarfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.conftest import Bake
from tests.containers import (
    Ended,
    build,
    compose,
    docker,
    inspect,
    responds,
    run,
    send,
    with_buildkit,
)
from tests.servers import free_port, needs_docker, wait_until

pytestmark = [pytest.mark.full, needs_docker]

SLUG = "tried-in-docker"
SECRET = "only-in-dotenv"
UNPRIVILEGED = ["--read-only", "--cap-drop=ALL", "--security-opt=no-new-privileges"]
# Nothing listens there. The service starts without connecting to its databases.
URLS = [
    f"--env=DATABASES__{name}__DATABASE_URL=postgresql://u:p@127.0.0.1:1/d"
    for name in ("PRIMARY", "ANALYTICS")
]

ADA = {"name": "Ada", "email": "ada@example.com"}
PASSWORD = """p"a$s'w %40@\\d"""


@pytest.fixture(scope="module")
def service(bake: Bake) -> Path:
    """The service in a developer's folder: with .env files, caches, and a file only its owner can read."""
    service = bake(project_slug=SLUG)
    for name in (".env", "app/.env"):
        (service / name).write_text(f"POSTGRES_PASSWORD={SECRET}\n")
    (service / "app/__pycache__").mkdir()
    (service / "app/__pycache__/stale.pyc").touch()
    (service / "app/main.py").chmod(0o600)
    return service


@pytest.fixture(scope="module")
def image(service: Path) -> Iterator[str]:
    build(service, SLUG)
    yield SLUG
    docker("image", "rm", "--force", SLUG)


@pytest.fixture(scope="module")
def container(image: str) -> Iterator[str]:
    """A container without privileges, and with an HTTP proxy that does not exist."""
    options = [
        *UNPRIVILEGED,
        *URLS,
        "--env=http_proxy=http://127.0.0.1:1",
        "--health-interval=0.2s",
    ]
    name = docker("run", "--detach", *options, image)
    yield name
    docker("rm", "--force", name)


# The image


def test_image_contains_only_the_service_and_its_dependencies(image: str, tmp_path: Path) -> None:
    container = docker("create", image)
    archive = tmp_path / "image.tar"
    docker("export", f"--output={archive}", container)
    docker("rm", container)
    with tarfile.open(archive) as files:
        paths = [Path(name) for name in files.getnames()]

    assert {".venv", "app"} == {path.name for path in paths if path.parent == Path("srv")}
    installed = {path.name for path in paths if path.match("srv/.venv/lib/*/site-packages/*")}
    assert {"fastapi", "alembic"} <= installed
    assert not installed & {"pip", "uv", "setuptools", "pytest", "mypy", "hatchling"}
    names = {path.name for path in paths if path.match("bin/*")}
    assert not names & {"cc", "gcc", "g++", "clang", "make", "git", "uv"}
    assert not {path for path in paths if path.match("root/.cache/*")}
    assert not {path for path in paths if path.name in {".env", ".git", "stale.pyc"}}
    assert SECRET not in str(inspect(image)) + docker("history", "--no-trunc", image)


def test_service_runs_without_privileges_and_stops_in_time(container: str) -> None:
    wait_until(lambda: inspect(container)["State"]["Health"]["Status"] == "healthy", seconds=60)

    assert docker("exec", container, "id", "-u") == "10001"
    assert docker("exec", container, "cat", "/proc/1/cmdline").split("\0")[:3] == [
        "python",
        "-m",
        "app",
    ]
    assert docker("diff", container) == ""
    logged = docker("exec", container, "sh", "-c", "python -v -c 'import app.main' 2>&1")
    assert "code object from '/srv/app/__pycache__/main" in logged
    assert not re.findall(r"code object from '/srv/.*\.py'", logged)  # compiled at startup

    started = time.monotonic()
    docker("stop", "-t", "20", container)
    assert time.monotonic() - started < 10
    assert inspect(container)["State"]["ExitCode"] == 0


def test_health_check_of_the_image_connects_to_the_service(image: str) -> None:
    _, *check = inspect(image)["Config"]["Healthcheck"]["Test"]

    result = run("docker", "run", "--rm", "--entrypoint=", image, *check, check=False)

    assert result.returncode == 1
    assert "Connection refused" in result.stderr


def test_missing_database_url_is_refused_in_one_sentence(image: str) -> None:
    ended = run("docker", "run", "--rm", *UNPRIVILEGED, image, "check", check=False)

    assert ended.returncode == 1
    assert ended.stderr.startswith("error: ENVIRONMENT=production needs a database URL: set ")
    assert ended.stderr.count("\n") == 1


def test_changed_code_reuses_the_cached_dependencies(service: Path, image: str) -> None:
    main = service / "app/main.py"
    code = main.read_text()
    main.write_text(f"{code}# {time.time_ns()}\n")  # in no earlier build
    log = build(service, f"{SLUG}:changed")
    main.write_text(code)
    docker("image", "rm", f"{SLUG}:changed")

    steps = dict(re.findall(r"^(#\d+) \[build \d/\d\] (.*)$", log, re.M))
    cached = {steps.get(step) for step in re.findall(r"^(#\d+) CACHED$", log, re.M)}
    [install] = [name for name in steps.values() if "uv pip install" in name]
    assert install in cached
    assert "COPY app app" not in cached


# The stack


class Stack:
    """A Compose project whose builds use the network of the host."""

    def __init__(self, service: Path, folder: Path, **variables: str) -> None:
        self.project = service.name
        self.port = free_port()
        self._override = folder / "network.yaml"
        self._override.write_text(
            yaml.safe_dump(
                {
                    "services": {
                        name: {"build": {"network": "host"}} for name in ("server", "migrate")
                    }
                }
            )
        )
        self._service = service
        self.variables = {"PORT": str(self.port)} | variables

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def __call__(self, *arguments: str, check: bool = True, **variables: str) -> Ended:
        return run(
            *compose(),
            *("-p", self.project, "-f", "compose.yaml", "-f", str(self._override)),
            *arguments,
            check=check,
            cwd=self._service,
            env=with_buildkit(**self.variables | variables),
        )

    def container(self, service: str) -> dict[str, Any]:
        name = self("ps", "--all", "--quiet", service).stdout.strip()
        return inspect(name)

    def wait_until_ready(self) -> None:
        wait_until(lambda: responds(f"{self.url}/health/ready"), seconds=60)

    def query(self, sql: str) -> list[str]:
        """Return the rows of a statement in the primary database."""
        psql = ["psql", "--username=app", "--dbname=primary", "--tuples-only", "--no-align"]
        return self("exec", "-T", "postgres-primary", *psql, "-c", sql).stdout.split()


@pytest.fixture(scope="module")
def newer_postgres(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, str]]:
    """The variable with an image that keeps its data where PostgreSQL 18's image does.

    POSTGRES_IMAGE may be an older version, so this builds an image from it with the newer paths.
    """
    if "POSTGRES_IMAGE" not in os.environ:
        yield {}
        return
    name = f"{SLUG}-postgres"
    lines = [
        f"FROM {os.environ['POSTGRES_IMAGE']}",
        "ENV PGDATA=/var/lib/postgresql/18/docker",
        "VOLUME /var/lib/postgresql",
    ]
    build(tmp_path_factory.mktemp("empty"), name, dockerfile="\n".join(lines))
    yield {"POSTGRES_IMAGE": name}
    docker("image", "rm", name)


@pytest.fixture(scope="module")
def stack(
    service: Path,
    image: str,
    newer_postgres: dict[str, str],
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[Stack]:
    folder = tmp_path_factory.mktemp("stack")
    stack = Stack(service, folder, POSTGRES_PASSWORD=PASSWORD, **newer_postgres)
    try:
        stack("up", "--detach", "--build")
        stack.wait_until_ready()
        yield stack
        print(stack("logs", "--no-color").stdout)
    finally:
        stack("--profile", "pgbouncer", "down", "--volumes", "--timeout=1", "--rmi=local")


def migrated(stack: Stack) -> list[str]:
    """Return the output of the migrations: a line for each database and run."""
    assert stack.container("migrate")["State"]["ExitCode"] == 0
    return re.findall(r"\): (.*)$", stack("logs", "--no-color", "migrate").stdout, re.M)


def test_stack_migrates_once_and_keeps_its_data(stack: Stack) -> None:
    first = migrated(stack)
    assert send(f"{stack.url}/users", ADA)[0] == 201
    stack("up", "--detach")
    second = migrated(stack)[len(first) :]
    stack("rm", "--stop", "--force", "-v")  # keeps the named volumes
    stack("up", "--detach")
    stack.wait_until_ready()
    third = migrated(stack)

    assert [line.split(":")[0] for line in first] == ["1 applied", "1 applied"]
    assert second == third == ["nothing to do"] * 2
    assert [ADA["email"]] == [user["email"] for user in send(f"{stack.url}/users")[1]["items"]]


def test_stack_is_unprivileged_and_listens_on_localhost_only(stack: Stack) -> None:
    for name in ("server", "migrate"):
        container = stack.container(name)

        assert container["HostConfig"]["ReadonlyRootfs"]
        assert container["HostConfig"]["CapDrop"] == ["ALL"]
        assert container["HostConfig"]["SecurityOpt"] == ["no-new-privileges:true"]
    ports = stack.container("server")["NetworkSettings"]["Ports"]["8000/tcp"]
    assert [port["HostIp"] for port in ports] == ["127.0.0.1"]


def test_health_check_of_a_database_connects_to_it(stack: Stack) -> None:
    database = stack.container("postgres-primary")["Config"]
    _, *check = database["Healthcheck"]["Test"]

    result = run("docker", "run", "--rm", "--entrypoint=", database["Image"], *check, check=False)

    assert "no response" in result.stdout


def test_stop_grace_period_is_longer_than_a_graceful_shutdown(project: Path) -> None:
    program = """
from app.core.config import Settings
from app.main import SECONDS_TO_CLOSE

settings = Settings()
print(settings.shutdown_delay + settings.shutdown_timeout + SECONDS_TO_CLOSE)
"""
    needed = run(project / ".venv/bin/python", "-c", program, cwd=project).stdout
    server = yaml.safe_load((project / "compose.yaml").read_text())["services"]["server"]

    assert float(server["stop_grace_period"].removesuffix("s")) > float(needed)


def test_requests_go_through_pgbouncer(stack: Stack) -> None:
    stack("--profile", "pgbouncer", "up", "--detach", DATABASE_HOST="pgbouncer", PGBOUNCER="true")
    stack.wait_until_ready()
    stored = send(f"{stack.url}/users", ADA | {"email": "through@example.com"})
    networks = stack.container("pgbouncer")["NetworkSettings"]["Networks"]
    clients = stack.query(
        f"SELECT DISTINCT host(client_addr) FROM pg_stat_activity WHERE application_name = '{SLUG}'"
    )

    assert stored[0] == 201
    assert clients == [network["IPAddress"] for network in networks.values()]


def test_data_of_postgresql_15_is_in_its_volume(bake: Bake, tmp_path: Path) -> None:
    service = bake(project_slug=f"{SLUG}-older", postgres_version="15")
    image = {name: os.environ[name] for name in ("POSTGRES_IMAGE",) if name in os.environ}
    stack = Stack(service, tmp_path, POSTGRES_PASSWORD=PASSWORD, **image)
    try:
        stack("up", "--no-start", "postgres-primary")
        container = stack.container("postgres-primary")
    finally:
        stack("down", "--volumes")

    [data] = [value for value in container["Config"]["Env"] if value.startswith("PGDATA=")]
    volumes = {mount["Destination"]: mount["Name"] for mount in container["Mounts"]}
    assert volumes == {data.removeprefix("PGDATA="): f"{service.name}_primary"}


def test_missing_password_is_refused(service: Path, tmp_path: Path) -> None:
    refused = Stack(service, tmp_path, POSTGRES_PASSWORD="")("config", check=False)

    assert refused.returncode != 0
    assert "set POSTGRES_PASSWORD" in refused.stderr


def test_password_can_come_from_the_env_file(service: Path, tmp_path: Path) -> None:
    config = yaml.safe_load(Stack(service, tmp_path)("config").stdout)

    for name in ("server", "migrate"):
        assert SECRET in config["services"][name]["environment"].values()
