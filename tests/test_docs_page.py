"""The page at /docs works in a browser that can reach only the service."""

import os
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from urllib.parse import urlsplit

import pytest
from playwright.sync_api import Error, Page, expect, sync_playwright

from tests.conftest import clean_environment
from tests.servers import free_port, run_python, wait_until_served

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "google-chrome"))), None)

pytestmark = [
    pytest.mark.full,
    pytest.mark.skipif(
        CHROMIUM is None and "REQUIRE_CHROMIUM" not in os.environ,
        reason="no Chromium on this machine, under the name chromium or google-chrome",
    ),
]

# Not localhost or an address of this machine: Chromium has other rules for those.
HOST = "service.example"
OPTIONS = [
    f"--host-resolver-rules=MAP {HOST} 127.0.0.1, MAP * ~NOTFOUND, EXCLUDE 127.0.0.1",
    "--no-proxy-server",
]

# The prefix stays in the path, as behind a proxy that does not strip it.
SERVE = """
import sys, uvicorn
from app.main import create_app

app = create_app()
app.root_path = sys.argv[2]
uvicorn.run(app, port=int(sys.argv[1]))
"""


@contextmanager
def served(project: Path, folder: Path, prefix: str) -> Iterator[str]:
    """Serve with new databases in the folder. Yield the address for Chromium."""
    assert run_python(project, "-m", "app", "migrate", folder=folder).returncode == 0
    port = free_port()
    running = subprocess.Popen(
        [project / ".venv/bin/python", "-c", SERVE, str(port), prefix],
        cwd=folder,
        env=clean_environment(),
    )
    with running:
        try:
            wait_until_served(port, running)
            yield f"{HOST}:{port}"
        finally:
            running.terminate()


@pytest.fixture
def page() -> Iterator[Page]:
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=OPTIONS)
        yield browser.new_page()
        browser.close()


def hosts(urls: list[str]) -> set[str]:
    return {urlsplit(url).netloc for url in urls if not url.startswith("data:")}


@pytest.mark.parametrize("prefix", ["", "/api"], ids=["at the root", "behind a prefix"])
def test_page_works_without_the_internet(
    project: Path, page: Page, tmp_path: Path, prefix: str
) -> None:
    requests: list[str] = []
    problems: list[str] = []
    page.on("request", lambda request: requests.append(request.url))
    page.on("requestfailed", lambda request: problems.append(request.url))
    page.on("console", lambda message: problems.append(message.text))
    page.on("pageerror", lambda error: problems.append(str(error)))

    with served(project, tmp_path, prefix) as address:
        page.goto(f"http://{address}{prefix}/docs")
        assert {address} == hosts(requests)
        assert not problems

        page.get_by_role("button", name="Create User").click()
        page.get_by_role("button", name="Try it out").click()
        page.get_by_role("textbox").fill('{"name": "Ada", "email": "ada@example.com"}')
        page.get_by_role("button", name="Execute").click()
        response = page.locator(".live-responses-table .response")

        expect(response.locator(".response-col_status")).to_contain_text("201")
        expect(response).to_contain_text('"email": "ada@example.com"')
        assert f"http://{address}{prefix}/users" in requests
        assert {address} == hosts(requests)
        assert not problems

        _, _, port = address.partition(":")
        with pytest.raises(Error, match="Failed to fetch"):  # the Content-Security-Policy blocks it
            page.evaluate(f"fetch('http://127.0.0.1:{port}', {{mode: 'no-cors'}})")
