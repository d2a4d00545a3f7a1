"""/docs: the page, the files that it loads, and its Content-Security-Policy."""

import re
from collections.abc import AsyncGenerator
from html.parser import HTMLParser

import pytest
from fastapi import FastAPI
from httpx2 import ASGITransport, AsyncClient

from app import DESCRIPTION, TITLE, __version__
from app.main import create_app

LOADED = {
    "/openapi.json",
    "/docs/swagger-ui-bundle.js",
    "/docs/swagger-ui.css",
    "/docs/favicon-32x32.png",
}


class Links(HTMLParser):
    """The URLs that the HTML of a page refers to."""

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


async def test_page_loads_only_files_of_the_service(client: AsyncClient) -> None:
    assert LOADED == await loaded(client, "/docs")
    for path in LOADED:
        assert (await client.get(path)).status_code == 200


@pytest.mark.parametrize(
    ("server_prefix", "app_prefix", "stripped"),
    [
        pytest.param("/api", "", "", id="root_path of the server"),
        pytest.param("", "/api", "", id="root_path of the app"),
        pytest.param("", "/api", "/api", id="root_path of the app, stripped by the proxy"),
    ],
)
async def test_page_works_behind_a_prefix(
    server_prefix: str, app_prefix: str, stripped: str
) -> None:
    app = create_app()
    app.root_path = app_prefix
    async with connect(app, server_prefix) as client:
        paths = await loaded(client, "/api/docs".removeprefix(stripped))

        assert {f"/api{path}" for path in LOADED} == paths
        for path in paths:
            assert (await client.get(path.removeprefix(stripped))).status_code == 200


async def test_content_security_policy_allows_the_service_only(client: AsyncClient) -> None:
    policy = (await client.get("/docs")).headers["content-security-policy"]
    sources = {name: values for name, *values in map(str.split, policy.split(";"))}

    assert sources["default-src"] == ["'none'"]
    assert sources["connect-src"] == ["'self'"]
    assert "'unsafe-inline'" not in sources["script-src"]
    assert not re.search(r"\*|[a-z]+://|\.", policy)


async def test_unchanged_file_is_304(client: AsyncClient) -> None:
    script = await client.get("/docs/swagger-ui-bundle.js")
    known = {"if-none-match": script.headers["etag"]}

    assert (await client.get("/docs/swagger-ui-bundle.js", headers=known)).status_code == 304


@pytest.mark.parametrize("path", ["/redoc", "/docs/nothing", "/docs/..%2fmain.py"])
async def test_other_paths_are_404(client: AsyncClient, path: str) -> None:
    response = await client.get(path)

    assert response.status_code == 404
    assert response.headers["content-type"] == "application/problem+json"


async def test_oauth2_redirect_page_exists(client: AsyncClient) -> None:
    assert "/docs/oauth2-redirect'" in (await client.get("/docs")).text
    assert (await client.get("/docs/oauth2-redirect")).status_code == 200


def test_openapi_schema_names_the_project() -> None:
    info = create_app().openapi()["info"]

    assert (TITLE, __version__) == (info["title"], info["version"])
    assert info.get("description", "") == DESCRIPTION  # FastAPI leaves out an empty one
