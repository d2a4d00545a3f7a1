"""Request ids and the line that each request writes to the log."""

import logging.config
import re

import pytest
from httpx2 import AsyncClient

from app.core.web.request_logging import REQUEST_ID
from tests.support import USERS


@pytest.mark.parametrize("path", [USERS, f"{USERS}/x", "/nowhere"])
async def test_response_has_the_request_id_of_the_client(client: AsyncClient, path: str) -> None:
    response = await client.get(path, headers={REQUEST_ID: "mine"})

    assert response.headers.get_list(REQUEST_ID) == ["mine"]


async def test_log_line_has_the_route_without_its_parameters(
    client: AsyncClient, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "app.core.web.request_logging")

    await client.get(f"{USERS}/8a69bb7f-37df-4248-b4aa-e14c2db1394c?token=hidden")

    [line] = [r.getMessage() for r in caplog.records if r.name == "app.core.web.request_logging"]
    expected = USERS + r"/\{user_id\} 404 \d+\.\d ms, 1 statements \d+\.\d ms"
    assert re.fullmatch(expected, line.removeprefix("GET "))
