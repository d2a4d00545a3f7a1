"""The manifests in deploy/ are valid for Kubernetes, and deploy/README.md is correct.

kubectl renders the overlays. They are validated against the schemas of the Kubernetes API. Further
rules of an API server are tested here, where they concern these manifests.
"""

import base64
import json
import os
import re
import shlex
import shutil
import subprocess
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

import kubernetes_validate
import pytest
import yaml

from tests.conftest import Bake, clean_environment, files

pytestmark = pytest.mark.skipif(
    shutil.which("kubectl") is None and "REQUIRE_KUBECTL" not in os.environ,
    reason="there is no kubectl on this machine",
)

Manifest = dict[str, Any]

ANSWERS: list[dict[str, str]] = [
    {},
    {"databases": "primary"},
    {"project_slug": "longest-" * 7 + "possible"[:7]},
    {"project_slug": "null"},  # YAML reads it as null unless it is quoted
]
OVERLAYS = ["production", "staging"]
# From the oldest that the README allows: before, the sleep action of preStop was off by default.
VERSIONS = [f"1.{minor}" for minor in range(30, 38)]

LABEL = r"[a-z]([a-z0-9-]{,61}[a-z0-9])?"  # a DNS label, RFC 1035
START = "from app.core.config import *; get_databases(); print(get_settings().environment)"


@pytest.fixture(
    scope="module", params=ANSWERS, ids=lambda answers: ",".join(answers.values()) or "defaults"
)
def deployed(bake: Bake, request: pytest.FixtureRequest) -> Path:
    return bake(**request.param)


@cache
def render(project: Path, overlay: str) -> list[Manifest]:
    rendered = kubectl("kustomize", str(project / "deploy/overlays" / overlay))
    return [*yaml.safe_load_all(rendered)]


def kubectl(*arguments: str, typed: str | None = None) -> str:
    """Run kubectl without a cluster."""
    return subprocess.run(
        ["kubectl", *arguments],
        check=True,
        env=clean_environment(KUBECONFIG=os.devnull),
        input=typed,
        stdout=subprocess.PIPE,
        text=True,
    ).stdout


@pytest.fixture(params=OVERLAYS)
def overlay(request: pytest.FixtureRequest) -> str:
    name: str = request.param
    return name


@pytest.fixture
def manifests(deployed: Path, overlay: str) -> list[Manifest]:
    return render(deployed, overlay)


def one(manifests: list[Manifest], kind: str) -> Manifest:
    [found] = [manifest for manifest in manifests if manifest["kind"] == kind]
    return found


def spec(manifests: list[Manifest], kind: str) -> Manifest:
    found: Manifest = one(manifests, kind)["spec"]
    return found


def templates(manifests: list[Manifest]) -> Iterator[Manifest]:
    """Return the pod templates of the service and of the migration."""
    return (spec(manifests, kind)["template"] for kind in ("Deployment", "Job"))


def commands(project: Path) -> list[list[str]]:
    """Return the kubectl commands of the README."""
    text = (project / "deploy/README.md").read_text()
    return [shlex.split(line) for line in re.findall("^    (kubectl .*)", text, re.M)]


def command(project: Path, *words: str) -> list[str]:
    """Return the only command that contains these words."""
    [found] = [found for found in commands(project) if {*words} <= {*found}]
    return found


def test_manifests_are_valid_for_every_kubernetes_version(bake: Bake, overlay: str) -> None:
    project = bake()
    oldest, newest = VERSIONS[0], VERSIONS[-1]
    assert f"It takes Kubernetes {oldest} or newer" in (project / "deploy/README.md").read_text()
    assert newest == ".".join(kubernetes_validate.latest_version().split(".")[:2])

    for version in VERSIONS:
        for manifest in render(project, overlay):
            kubernetes_validate.validate(manifest, version, strict=True)


def test_manifests_are_valid_for_all_template_options(manifests: list[Manifest]) -> None:
    for manifest in manifests:
        kubernetes_validate.validate(manifest, VERSIONS[-1], strict=True)


def test_every_file_is_used(deployed: Path) -> None:
    for kustomization in deployed.glob("deploy/**/kustomization.yaml"):
        text = yaml.safe_load(kustomization.read_text())
        names = [*text["resources"], *(patch["path"] for patch in text.get("patches", []))]
        others = {path.name for path in kustomization.parent.glob("*.yaml")} - {kustomization.name}

        assert others == {*names} - {"../../base"}
    assert {path.name for path in (deployed / "deploy/overlays").iterdir()} == {*OVERLAYS}


def test_names_and_labels_are_legal(deployed: Path, manifests: list[Manifest]) -> None:
    for manifest in manifests:
        name, suffix = re.fullmatch(r"(.*?)(-[a-z0-9]{10})?", manifest["metadata"]["name"]).groups()  # type: ignore[union-attr]

        assert name == deployed.name
        assert re.fullmatch(LABEL, name)
        assert bool(suffix) == (manifest["kind"] == "ConfigMap")  # its name may have 253 characters
        for value in manifest["metadata"].get("labels", {}).values():
            assert re.fullmatch(LABEL, value)


def test_overlay_sets_namespace_and_image(
    deployed: Path, overlay: str, manifests: list[Manifest]
) -> None:
    assert {overlay} == {manifest["metadata"]["namespace"] for manifest in manifests}
    assert {f"registry.example.com/{deployed.name}:0.1.0"} == {
        container["image"]
        for template in templates(manifests)
        for container in template["spec"]["containers"]
    }


def test_overlay_applies_its_patches(
    deployed: Path, overlay: str, manifests: list[Manifest]
) -> None:
    folder = deployed / "deploy/overlays" / overlay
    for file in yaml.safe_load((folder / "kustomization.yaml").read_text())["patches"]:
        patch = yaml.safe_load((folder / file["path"]).read_text())

        assert_has(one(manifests, patch["kind"]), patch)


def assert_has(whole: Any, part: Any) -> None:
    if isinstance(part, dict):
        for key, value in part.items():
            assert_has(whole[key], value)
    elif isinstance(part, list):
        for left, right in zip(whole, part, strict=True):
            assert_has(left, right)
    else:
        assert whole == part


def test_selectors_and_ports_match(manifests: list[Manifest]) -> None:
    server, migration = (
        template["metadata"]["labels"].items() for template in templates(manifests)
    )
    deployment = one(manifests, "Deployment")
    [container] = deployment["spec"]["template"]["spec"]["containers"]
    ports = {port["name"] for port in container["ports"]}

    def selects(selector: Manifest) -> tuple[bool, bool]:
        return (selector.items() <= server, selector.items() <= migration)

    service, policy = spec(manifests, "Service"), spec(manifests, "NetworkPolicy")
    scaled = spec(manifests, "HorizontalPodAutoscaler")["scaleTargetRef"]
    assert selects(deployment["spec"]["selector"]["matchLabels"]) == (True, False)
    assert selects(service["selector"]) == (True, False)
    budget = spec(manifests, "PodDisruptionBudget")
    assert selects(budget["selector"]["matchLabels"]) == (True, False)
    for constraint in deployment["spec"]["template"]["spec"]["topologySpreadConstraints"]:
        assert selects(constraint["labelSelector"]["matchLabels"]) == (True, False)
    assert selects(policy["podSelector"]["matchLabels"]) == (True, True)
    assert scaled == {
        "apiVersion": deployment["apiVersion"],
        "kind": deployment["kind"],
        "name": deployment["metadata"]["name"],
    }
    assert ports == {port["targetPort"] for port in service["ports"]}
    assert ports == {port["port"] for rule in policy["ingress"] for port in rule["ports"]}
    probes = [container[f"{name}Probe"]["httpGet"] for name in ("startup", "liveness", "readiness")]
    assert ports == {probe["port"] for probe in probes}


def test_pods_refer_to_existing_objects(deployed: Path, manifests: list[Manifest]) -> None:
    settings = one(manifests, "ConfigMap")["metadata"]["name"]
    account = one(manifests, "ServiceAccount")["metadata"]["name"]
    secret = {"name": command(deployed, "create", "secret")[6]}
    for_migrations: Manifest = {"name": f"{deployed.name}-migration", "optional": True}
    assert for_migrations["name"] in (deployed / "deploy/README.md").read_text()

    both = [{"configMapRef": {"name": settings}}, {"secretRef": secret}]
    of_each = [both, [*both, {"secretRef": for_migrations}]]
    for sources, template in zip(of_each, templates(manifests), strict=True):
        [container] = template["spec"]["containers"]

        assert sources == container["envFrom"]
        assert template["spec"]["serviceAccountName"] == account
        assert [mount["name"] for mount in container["volumeMounts"]] == [
            volume["name"] for volume in template["spec"]["volumes"]
        ]


def test_pods_meet_the_restricted_pod_security_standard(
    deployed: Path, overlay: str, manifests: list[Manifest]
) -> None:
    """See https://kubernetes.io/docs/concepts/security/pod-security-standards/#restricted."""
    assert command(deployed, "label")[-1] == "pod-security.kubernetes.io/enforce=restricted"
    allowed = {"configMap", "csi", "downwardAPI", "emptyDir", "ephemeral", "projected", "secret"}
    for template in templates(manifests):
        pod = template["spec"]
        [container] = pod["containers"]

        assert not {*pod} & {"hostNetwork", "hostPID", "hostIPC"}
        assert {key for volume in pod["volumes"] for key in volume} - {"name"} <= allowed
        assert pod["securityContext"]["runAsNonRoot"] is True
        assert pod["securityContext"]["runAsUser"] > 0
        assert pod["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
        # The standard does not require readOnlyRootFilesystem and automountServiceAccountToken.
        assert container["securityContext"] == {
            "allowPrivilegeEscalation": False,
            "capabilities": {"drop": ["ALL"]},
            "readOnlyRootFilesystem": True,
        }
        assert pod["automountServiceAccountToken"] is False


def test_no_secret_is_in_a_manifest(deployed: Path, manifests: list[Manifest]) -> None:
    assert "Secret" not in {manifest["kind"] for manifest in manifests}
    for path in files(deployed / "deploy"):
        if path.suffix == ".yaml":
            assert not re.search(r"://|PASSWORD|secretGenerator", path.read_text()), path


def test_service_starts_with_the_settings_of_the_overlay_and_the_secret_of_the_readme(
    bake: Bake, project: Path
) -> None:
    for databases in ("primary", "primary + analytics"):
        deployed = bake(databases=databases)
        [typed] = re.findall("```sh\n(.*?)```", (deployed / "deploy/README.md").read_text(), re.S)
        create = command(deployed, "create", "secret")[1:]
        made = kubectl(*create, "--dry-run=client", "--output=json", typed=typed)
        secret = {
            name: base64.b64decode(value).decode()
            for name, value in json.loads(made)["data"].items()
        }
        settings: dict[str, str] = one(render(deployed, "production"), "ConfigMap")["data"]

        assert start(project, deployed, settings | secret).stdout == "production\n"
        for name in secret:
            some = {key: value for key, value in (settings | secret).items() if key != name}
            assert f"set {name}" in start(project, deployed, some).stderr


def start(
    project: Path, deployed: Path, variables: dict[str, str]
) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [project / ".venv/bin/python", "-c", START],
        capture_output=True,
        check=False,
        cwd=deployed,
        env=clean_environment(PYTHONPATH=str(deployed), **variables),
        text=True,
    )


def test_first_command_of_a_release_applies_the_migration_and_its_dependencies(
    deployed: Path, manifests: list[Manifest]
) -> None:
    first, then = (found for found in commands(deployed) if "apply" in found)
    key, value = first[first.index("-l") + 1].split("!=")
    chosen = {m["kind"] for m in manifests if m["metadata"].get("labels", {}).get(key) != value}

    assert chosen == {"ConfigMap", "Job", "NetworkPolicy", "ServiceAccount"}
    assert [*first[: first.index("-l")]] == then
    assert (deployed / then[-1]).is_dir()


def test_migration_has_the_deadline_that_ends_the_wait_of_the_readme(
    deployed: Path, manifests: list[Manifest]
) -> None:
    [minutes] = re.findall(r"after (\d+) minutes", (deployed / "deploy/README.md").read_text())

    assert int(minutes) * 60 == spec(manifests, "Job")["activeDeadlineSeconds"]


def test_changed_setting_replaces_the_pods(bake: Bake) -> None:
    project = bake()
    before = spec(render(project, "production"), "Deployment")["template"]
    kustomization = project / "deploy/base/kustomization.yaml"
    kustomization.write_text(kustomization.read_text().replace("POOL_SIZE=2", "POOL_SIZE=3"))
    render.cache_clear()

    assert spec(render(project, "production"), "Deployment")["template"] != before


def test_rollout_removes_no_pod_before_a_new_one_is_ready(manifests: list[Manifest]) -> None:
    deployment = spec(manifests, "Deployment")
    scaling = spec(manifests, "HorizontalPodAutoscaler")

    assert deployment["strategy"]["rollingUpdate"]["maxUnavailable"] == 0
    assert "replicas" not in deployment  # every `apply` would reset the autoscaler's number
    assert scaling["minReplicas"] <= scaling["maxReplicas"]


def test_draining_a_node_leaves_production_more_than_one_pod(bake: Bake) -> None:
    manifests = render(bake(), "production")
    evicted = spec(manifests, "PodDisruptionBudget")["maxUnavailable"]

    assert spec(manifests, "HorizontalPodAutoscaler")["minReplicas"] - evicted > 1
