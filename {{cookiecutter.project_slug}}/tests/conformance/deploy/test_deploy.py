"""The numbers in deploy/ fit together, and fit the settings."""

from math import ceil
from pathlib import Path
from typing import Any

import pytest
import yaml
from typer.main import get_command

from app.__main__ import cli
from app.core.config import DATABASES, Settings, get_settings, variable
from app.core.telemetry.lifecycle import TIME_TO_FLUSH
from app.main import SECONDS_TO_CLOSE, create_app
from app.services.health import SECONDS_TO_ANSWER

DEPLOY = Path(__file__).parents[3] / "deploy"
if not DEPLOY.exists():
    pytest.skip("deploy/ was deleted", allow_module_level=True)
OVERLAYS = sorted(path.name for path in (DEPLOY / "overlays").iterdir())

# Of PostgreSQL's max_connections and superuser_reserved_connections, where nobody has set them.
MAX_CONNECTIONS = 100 - 3


def read(path: str) -> dict[str, Any]:
    manifest: dict[str, Any] = yaml.safe_load((DEPLOY / path).read_text())
    return manifest


def pod(manifest: str) -> dict[str, Any]:
    spec: dict[str, Any] = read(manifest)["spec"]["template"]["spec"]
    return spec


def arguments(manifest: str) -> dict[str, Any]:
    """Return what the container's command means to the command line, which may refuse it."""
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
    """What the service makes of the plain settings of an overlay, and of a URL for each database."""
    for folder in ("base", f"overlays/{overlay}"):
        for generator in read(f"{folder}/kustomization.yaml").get("configMapGenerator", []):
            for literal in generator["literals"]:
                environment.setenv(*literal.split("=", 1))
    for name in DATABASES:
        environment.setenv(variable(name), "postgresql://localhost/database")
    return get_settings()


def test_service_starts_with_these_settings(settings: Settings) -> None:
    assert settings.environment == "production"


def test_commands_are_ones_that_the_service_has() -> None:
    [container] = pod("base/deployment.yaml")["containers"]
    served = arguments("base/deployment.yaml")

    assert served["host"] == "0.0.0.0"  # noqa: S104, all that reach a pod are let in by its policy
    assert [served["port"]] == [port["containerPort"] for port in container["ports"]]
    assert not any(arguments("base/migration.yaml").values())  # all databases, and for real


def test_probes_ask_what_the_service_answers() -> None:
    [container] = pod("base/deployment.yaml")["containers"]
    probes = {name: container[f"{name}Probe"] for name in ("startup", "liveness", "readiness")}
    asked = {name: probe["httpGet"]["path"] for name, probe in probes.items()}

    assert asked == {
        "startup": "/health/live",
        "liveness": "/health/live",
        "readiness": "/health/ready",
    }
    assert {*asked.values()} <= {*create_app().openapi()["paths"]}
    assert probes["readiness"]["timeoutSeconds"] > SECONDS_TO_ANSWER


def test_requests_have_the_time_to_end_before_the_pod_is_killed(settings: Settings) -> None:
    deployment = pod("base/deployment.yaml")
    [container] = deployment["containers"]
    until_told = container["lifecycle"]["preStop"]["sleep"]["seconds"]
    drained = settings.shutdown_delay + settings.shutdown_timeout
    ended = until_told + drained + SECONDS_TO_CLOSE + TIME_TO_FLUSH

    assert deployment["terminationGracePeriodSeconds"] > ended


@pytest.mark.parametrize("database", DATABASES)
def test_migration_may_wait_for_another_one(settings: Settings, database: str) -> None:
    deadline = read("base/migration.yaml")["spec"]["activeDeadlineSeconds"]

    assert deadline > settings.databases[database].migration_lock_timeout


def pods_at_once(overlay: str) -> int:
    """Return how many there are in a roll-out: all of them, one more, and those that end.

    One begins to end whenever a new one has been ready for `minReadySeconds`.
    """
    deployment = read("base/deployment.yaml")["spec"]
    surge: int = deployment["strategy"]["rollingUpdate"]["maxSurge"]
    to_end = deployment["template"]["spec"]["terminationGracePeriodSeconds"]
    ending: int = surge * ceil(to_end / deployment["minReadySeconds"])
    replicas: int = read(f"overlays/{overlay}/replicas.yaml")["spec"]["maxReplicas"]
    return replicas + surge + ending


@pytest.mark.parametrize("database", DATABASES)
def test_connections_of_all_pods_fit_into_a_server(
    settings: Settings, overlay: str, database: str
) -> None:
    """Each process has two pools, one to read on, and a connection that readiness asks on."""
    of_database = settings.databases[database]
    of_process = 2 * (of_database.pool_size + of_database.max_overflow) + 1
    of_pod: int = arguments("base/deployment.yaml")["workers"] * of_process
    of_migration = 1

    assert pods_at_once(overlay) * of_pod + of_migration <= MAX_CONNECTIONS, (
        f"lower {variable(database, 'pool_size')} or the pods at once, or raise max_connections "
        "here and in the server"
    )
