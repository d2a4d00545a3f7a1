import re
from collections.abc import AsyncGenerator
from html.parser import HTMLParser

import pytest
from fastapi import FastAPI
from httpx2 import ASGITransport, AsyncClient

from app.main import create_app

LOADED = {
    "/openapi.json",
    "/docs/swagger-ui-bundle.js",
    "/docs/swagger-ui.css",
    "/docs/favicon-32x32.png",
}


class Links(HTMLParser):
    """What a page loads, beside what its scripts do."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.found: set[str] = set()
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.found |= {value or "" for name, value in attrs if name in {"href", "src"}}


def connect(app: FastAPI, root_path: str = "") -> AsyncClient:
    return AsyncClient(transport=ASGITransport(app, root_path=root_path), base_url="http://test")


@pytest.fixture
async def client() -> AsyncGenerator[AsyncClient, None]:
    async with connect(create_app()) as client:
        yield client


async def loaded(client: AsyncClient, page: str) -> set[str]:
    text = (await client.get(page)).text
    assert "://" not in text
    return Links(text).found | set(re.findall(r"url: '(.+)'", text))


async def test_page_loads_nothing_that_the_service_does_not_have(client: AsyncClient) -> None:
    assert LOADED == await loaded(client, "/docs")
    for path in LOADED:
        assert (await client.get(path)).status_code == 200


async def test_page_may_talk_to_the_service_only(client: AsyncClient) -> None:
    policy = (await client.get("/docs")).headers["content-security-policy"]
    sources = {name: values for name, *values in map(str.split, policy.split(";"))}

    assert sources["default-src"] == ["'none'"]
    assert sources["connect-src"] == ["'self'"]
    assert "'unsafe-inline'" not in sources["script-src"]
    assert not re.search(r"\*|[a-z]+://|\.", policy)


@pytest.mark.parametrize("path", ["/redoc", "/docs/nothing", "/docs/..%2fmain.py"])
async def test_nothing_else_is_there(client: AsyncClient, path: str) -> None:
    answer = await client.get(path)

    assert answer.status_code == 404
    assert answer.headers["content-type"] == "application/problem+json"
