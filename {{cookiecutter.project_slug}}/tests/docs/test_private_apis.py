"""docs/private-apis.md lists the same APIs as its tests, and the files that use them."""

import re

from tests.conformance.core.test_private_apis import ON_POSTGRESQL, ON_SQLITE, PLAIN, PrivateApi
from tests.docs.snippets import ROOT

APIS = [*PLAIN, *ON_SQLITE, *ON_POSTGRESQL]
PAGE = (ROOT / "docs" / "private-apis.md").read_text()

# By the name of the API: the cell of the files that use it.
ROWS = dict(re.findall(r"^\| `([^`]+)` \| (`app/[^|]+) \|", PAGE, re.MULTILINE))


def test_page_and_tests_list_the_same_apis() -> None:
    assert {*ROWS} == {api.name for api in APIS}
    assert len(ROWS) == len(APIS) == PAGE.count("\n| `")


def test_page_names_a_file_that_uses_the_api() -> None:
    def is_right(api: PrivateApi) -> bool:
        files = re.findall(r"`([^`]+)`", ROWS[api.name])
        # The rendered service may not have the only file.
        return bool({*files} & {*api.files}) or not any((ROOT / file).exists() for file in files)

    assert [api.name for api in APIS if not is_right(api)] == []


def test_libraries_with_private_apis_have_an_upper_bound() -> None:
    dependencies = (ROOT / "pyproject.toml").read_text()
    libraries = {name.lower() for name in re.findall(r"^## (\w+)\n\n\| API", PAGE, re.MULTILINE)}
    bounded = re.findall(r'^ *"(\w+).*,<.*# docs/private-apis\.md', dependencies, re.MULTILINE)

    assert {*bounded} == libraries - {"starlette", "pydantic"}
