"""The numbers in deploy/ match each other and the settings."""

import os
import re
import subprocess
from math import ceil
from pathlib import Path
from typing import Any

import pytest
import yaml
from typer.main import get_command

from app.__main__ import cli
from app.core.config import DATABASES, Settings, get_settings, variable
from app.core.db import ConfigurationError
from app.core.telemetry.lifecycle import FLUSH_TIMEOUT
from app.main import SECONDS_TO_CLOSE, create_app
from app.services.health import CHECK_TIMEOUT

DEPLOY = Path(__file__).parents[3] / "deploy"
if not DEPLOY.exists():
    pytest.skip("deploy/ was deleted", allow_module_level=True)
OVERLAYS = sorted(path.name for path in (DEPLOY / "overlays").iterdir())

# PostgreSQL's defaults of max_connections and superuser_reserved_connections.
MAX_CONNECTIONS = 100 - 3


def read(path: str) -> dict[str, Any]:
    manifest: dict[str, Any] = yaml.safe_load((DEPLOY / path).read_text())
    return manifest


def pod(manifest: str) -> dict[str, Any]:
    spec: dict[str, Any] = read(manifest)["spec"]["template"]["spec"]
    return spec


def arguments(manifest: str) -> dict[str, Any]:
    """Parse the command of the container with the service's own command line."""
    [container] = pod(manifest)["containers"]
    python, option, package, name, *options = container["command"]
    assert ("python", "-m", "app") == (python, option, package)
    command = get_command(cli).commands[name]  # type: ignore[attr-defined]
    params: dict[str, Any] = command.make_context(name, options).params
    return params


@pytest.fixture(params=OVERLAYS)
def overlay(request: pytest.FixtureRequest) -> str:
    name: str = request.param
    return name


@pytest.fixture
def settings(overlay: str, environment: pytest.MonkeyPatch) -> Settings:
    """The settings of an overlay and the Secret of README.md, with a URL for each database."""
    for folder in ("base", f"overlays/{overlay}"):
        for generator in read(f"{folder}/kustomization.yaml").get("configMapGenerator", []):
            for literal in generator["literals"]:
                environment.setenv(*literal.split("=", 1))
    for name in DATABASES:
        environment.setenv(variable(name), "postgresql://localhost/database")
    [secret] = re.findall("^```sh\n(.*?)^```", (DEPLOY / "README.md").read_text(), re.M | re.S)
    for name, value in re.findall(r"^(\w+)=(.*)", secret, re.M):
        environment.setenv(name, value)
    try:
        return get_settings()
    except ConfigurationError as error:
        pytest.fail(f"{error}: add it to the Secret in deploy/README.md, or to kustomization.yaml")


def test_service_starts_with_these_settings(settings: Settings) -> None:
    assert settings.environment == "production"


def test_commands_are_valid_for_the_command_line() -> None:
    [container] = pod("base/deployment.yaml")["containers"]
    served = arguments("base/deployment.yaml")

    assert served["host"] == "::"  # a network policy protects the pod
    assert [get_settings().port] == [port["containerPort"] for port in container["ports"]]
    assert not any(
        arguments("base/migration.yaml").values()
    )  # all databases, and not only print the SQL


def test_probes_use_routes_of_the_service() -> None:
    [container] = pod("base/deployment.yaml")["containers"]
    probes = {name: container[f"{name}Probe"] for name in ("startup", "liveness", "readiness")}
    paths = {name: probe["httpGet"]["path"] for name, probe in probes.items()}

    assert paths == {
        "startup": "/health/live",
        "liveness": "/health/live",
        "readiness": "/health/ready",
    }
    assert {*paths.values()} <= {*create_app().openapi()["paths"]}
    assert probes["readiness"]["timeoutSeconds"] > CHECK_TIMEOUT


def test_grace_period_is_longer_than_the_shutdown(settings: Settings) -> None:
    deployment = pod("base/deployment.yaml")
    [container] = deployment["containers"]
    pre_stop = container["lifecycle"]["preStop"]["sleep"]["seconds"]
    drained = settings.shutdown_delay + settings.shutdown_timeout
    ended = pre_stop + drained + SECONDS_TO_CLOSE + FLUSH_TIMEOUT

    assert deployment["terminationGracePeriodSeconds"] > ended


@pytest.mark.parametrize("database", DATABASES)
def test_migration_can_wait_for_another_one(settings: Settings, database: str) -> None:
    deadline = read("base/migration.yaml")["spec"]["activeDeadlineSeconds"]

    assert deadline > settings.databases[database].migration_lock_timeout


def pods_at_once(overlay: str) -> int:
    """Return the number of pods during a rollout: the maximum, the surge, and the terminating ones.

    An old pod starts to terminate when a new one has been ready for `minReadySeconds`.
    """
    deployment = read("base/deployment.yaml")["spec"]
    surge: int = deployment["strategy"]["rollingUpdate"]["maxSurge"]
    to_end = deployment["template"]["spec"]["terminationGracePeriodSeconds"]
    terminating: int = surge * ceil(to_end / deployment["minReadySeconds"])
    replicas: int = read(f"overlays/{overlay}/replicas.yaml")["spec"]["maxReplicas"]
    return replicas + surge + terminating


def test_connections_of_all_pods_fit_into_one_server(settings: Settings, overlay: str) -> None:
    """A process has two pools (one is for read-only sessions) and a connection for probes."""
    databases = [settings.databases[name] for name in DATABASES]
    of_process = sum(2 * (each.pool_size + each.max_overflow) + 1 for each in databases)
    of_pod = settings.web_concurrency * of_process
    of_migration = 1

    assert pods_at_once(overlay) * of_pod + of_migration <= MAX_CONNECTIONS, (
        "lower POOL_SIZE or the pods at once, or raise max_connections here and in the server"
    )


# Stands for kubectl: prints the conditions of a Job, waits for one, and logs the other commands.
KUBECTL = """#!/bin/sh
case "$*" in
*"get job"*) echo "$CONDITIONS" ;;
*"--for=condition=complete"*)
    case "$CONDITIONS $*" in
    *Complete*) ;;
    *"--timeout=5s"*) exit 1 ;;
    *) exec sleep 1000 ;;
    esac ;;
*) echo "$*" >> "$LOG" ;;
esac
"""


@pytest.mark.parametrize(
    ("conditions", "is_released"),
    [("SuccessCriteriaMet Complete", True), ("FailureTarget Failed", False)],
)
def test_release_ends_before_the_server_if_the_migration_has_failed(
    tmp_path: Path, conditions: str, is_released: bool
) -> None:
    section = (DEPLOY / "README.md").read_text().partition("## Each release")[2]
    commands = re.findall(r"^    (.+)$", section.partition("\n\nIf the")[0], re.MULTILINE)
    (tmp_path / "kubectl").write_text(KUBECTL)
    (tmp_path / "kubectl").chmod(0o755)
    path = f"{tmp_path}:{os.environ['PATH']}"
    environment = {"PATH": path, "CONDITIONS": conditions, "LOG": str(tmp_path / "log")}

    ended = subprocess.run(
        ["/bin/sh", "-ec", "\n".join(commands)], check=False, env=environment, timeout=60
    )

    assert (ended.returncode == 0) == is_released
    assert ("rollout status" in (tmp_path / "log").read_text()) == is_released
