"""A server in Docker, through Testcontainers."""

import os
import secrets
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

from sqlalchemy import make_url

from tests.harness.server import SETTINGS, FailedError, Server, UnavailableError, first_line, say

ENGINE_TIMEOUT = 5  # seconds in which a Docker engine must answer


@contextmanager
def container(image: str) -> Iterator[Server]:
    """Run a container of POSTGRES_IMAGE, or of this image if that is not set."""
    asked_for = os.environ.get("POSTGRES_IMAGE")
    image = asked_for or image
    # This process is the reaper: another container for that is one more that may fail to start.
    os.environ.setdefault("TESTCONTAINERS_RYUK_DISABLED", "true")
    try:
        from docker.errors import DockerException, ImageNotFound  # noqa: PLC0415
        from testcontainers.community.postgres import PostgresContainer  # noqa: PLC0415
        from testcontainers.core.docker_client import DockerClient  # noqa: PLC0415
    except ImportError:
        raise UnavailableError("testcontainers[postgres] is not installed") from None
    try:
        engine = DockerClient(timeout=ENGINE_TIMEOUT).client
    except DockerException:
        raise UnavailableError("no Docker engine answers") from None

    settings = (f"-c{name}={value}" for name, value in SETTINGS.items())
    postgres = (
        PostgresContainer(
            image, username="postgres", password=secrets.token_hex(), dbname="postgres"
        )
        .with_command(["postgres", *settings])
        .with_env("PGDATA", "/pgdata/data")
        .with_tmpfs_mount("/pgdata")
    )
    with ExitStack() as stack:
        try:
            try:
                engine.images.get(image)
            except ImageNotFound:
                say(doing=f"Docker pulls {image}")
            stack.enter_context(postgres)
            url = make_url(postgres.get_connection_url(driver=None))
        except Exception as error:  # of Docker, of the registry, of the network
            kind = FailedError if asked_for else UnavailableError
            raise kind(f"Docker cannot run {image}: {first_line(error)}") from error
        yield Server(url, "run", f"in Docker ({image})")
