"""A PostgreSQL server in Docker, started by Testcontainers."""

import os
import secrets
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

from sqlalchemy import make_url

from tests.harness.server import (
    SETTINGS,
    FailedError,
    RunningServer,
    UnavailableError,
    first_line,
    send,
)

ENGINE_TIMEOUT = 5  # seconds for the Docker engine to respond


@contextmanager
def container(image: str) -> Iterator[RunningServer]:
    """Run a container of POSTGRES_IMAGE, or of `image` if that variable is not set."""
    requested = os.environ.get("POSTGRES_IMAGE")
    image = requested or image
    # This process removes the container. Testcontainers' own cleanup container may fail to start.
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
        raise UnavailableError("no Docker engine responds") from None

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
                send(doing=f"Docker pulls {image}")
            stack.enter_context(postgres)
            url = make_url(postgres.get_connection_url(driver=None))
        except Exception as error:  # from Docker, the registry or the network
            kind = FailedError if requested else UnavailableError
            raise kind(f"Docker cannot run {image}: {first_line(error)}") from error
        yield RunningServer(url, "run", f"in Docker ({image})")
