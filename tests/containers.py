"""Docker and Compose commands for the tests of the image and of compose.yaml."""

import json
import os
import re
import shutil
import subprocess
from functools import cache
from pathlib import Path
from typing import Any
from urllib.error import URLError
from urllib.request import Request, urlopen

from tests.conftest import clean_environment

Ended = subprocess.CompletedProcess[str]


def run(*command: str | Path, check: bool = True, **options: Any) -> Ended:
    """Run a command, print its output, and return the completed process."""
    ended = subprocess.run(
        command,
        capture_output=True,
        check=False,
        text=True,
        **{"env": clean_environment()} | options,
    )
    print(*command, ended.stdout, ended.stderr, sep="\n")
    assert not check or ended.returncode == 0, f"{command[0]} failed"
    return ended


def docker(*arguments: str) -> str:
    return run("docker", *arguments).stdout.strip()


def inspect(name: str) -> dict[str, Any]:
    """Return the result of `docker inspect` for a container or an image."""
    [found] = json.loads(docker("inspect", name))
    assert isinstance(found, dict)
    return found


@cache
def builder() -> Path:
    """Return a Docker client that can build with BuildKit. From version 23 on it needs a plugin."""
    for folder in os.get_exec_path():
        client = Path(folder, "docker")
        if not client.exists():
            continue
        version = re.search(r"version (\d+)", run(client, "--version").stdout)
        if (version and int(version[1]) < 23) or not run(
            client, "buildx", "version", check=False
        ).returncode:
            return client
    raise AssertionError("no Docker client can build with BuildKit: install docker-buildx")


@cache
def compose() -> list[str]:
    """Return the command of Docker Compose: the plugin, or the older program."""
    if run("docker", "compose", "version", check=False).returncode == 0:
        return ["docker", "compose"]
    assert shutil.which("docker-compose"), "Docker Compose is not installed"
    return ["docker-compose"]


def with_buildkit(**variables: str) -> dict[str, str]:
    """Return the environment variables of a build, with PYTHON_IMAGE if it is set."""
    image = {name: os.environ[name] for name in ("PYTHON_IMAGE",) if name in os.environ}
    environment = clean_environment(**image, **variables)
    path = f"{builder().parent}{os.pathsep}{environment['PATH']}"
    return environment | {"DOCKER_BUILDKIT": "1", "COMPOSE_DOCKER_CLI_BUILD": "1", "PATH": path}


def build(folder: Path, tag: str, *options: str, dockerfile: str | None = None) -> str:
    """Build an image from a folder, with the network of the host. Return the build's log."""
    arguments = [f"--tag={tag}", "--network=host", "--progress=plain", *options]
    if "PYTHON_IMAGE" in os.environ:
        arguments.append(f"--build-arg=PYTHON_IMAGE={os.environ['PYTHON_IMAGE']}")
    if dockerfile is not None:
        arguments.append("--file=-")
    ended = run(builder(), "build", *arguments, str(folder), env=with_buildkit(), input=dockerfile)
    return ended.stderr


def responds(url: str) -> bool:
    """Return whether a GET request succeeds."""
    try:
        with urlopen(url, timeout=5):
            return True
    except (OSError, URLError):
        return False


def send(url: str, body: object = None) -> tuple[int, Any]:
    """Send a GET request, or a POST request with this body. Return the status and the JSON document."""
    data = None if body is None else json.dumps(body).encode()
    request = Request(url, data, {"Content-Type": "application/json"})
    with urlopen(request, timeout=30) as response:
        return response.status, json.load(response)
