"""The instructions of the rendered README work when they are followed exactly."""

import re
import shutil
from pathlib import Path

import pytest

from tests.conftest import QUESTIONS, ROOT, SERVICE, Bake, make

pytestmark = pytest.mark.full

EDIT = re.compile(
    r"(?:In|At the end of) `(?P<file>[^`]+)`(?:, (?P<where>above|below) `(?P<anchor>[^`]+)`)?:\n\n"
    r"(?P<code>(?: {4}.*\n|\n)+)"
)

TABLE = '''"""Entries, in the logging database."""

from sqlalchemy.orm import Mapped, mapped_column

from app.models.base import LoggingBase


class Entry(LoggingBase):
    __tablename__ = "entries"

    id: Mapped[int] = mapped_column(primary_key=True)
    text: Mapped[str]
'''
ROUTES = '''"""Routes of entries."""

from fastapi import APIRouter, status
from sqlalchemy import select

from app.dependencies import LoggingSessionDep
from app.models import Entry

router = APIRouter(prefix="/entries")


@router.post("", status_code=status.HTTP_201_CREATED)
async def create_entry(text: str, session: LoggingSessionDep) -> None:
    session.add(Entry(text=text))


@router.get("")
async def list_entries(session: LoggingSessionDep) -> list[str]:
    return list(await session.scalars(select(Entry.text)))
'''
TESTS = """from httpx2 import AsyncClient


async def test_entry_is_stored(client: AsyncClient) -> None:
    assert (await client.post("/entries?text=started")).status_code == 201
    assert (await client.get("/entries")).json() == ["started"]
"""


def section(project: Path, title: str) -> str:
    """Return the section of the README with this title."""
    [text] = re.findall(
        rf"^## {title}\n(.*?)(?=^## |\Z)", (project / "README.md").read_text(), re.DOTALL | re.M
    )
    return str(text)


def follow(project: Path, title: str) -> int:
    """Make the edits in a section of the README. Return the number of changed files."""
    edits = [*EDIT.finditer(section(project, title))]
    for edit in edits:
        path = project / edit["file"]
        before = path.read_text()
        code = re.sub(r"^ {4}", "", edit["code"], flags=re.M).rstrip("\n") + "\n"
        if edit["where"] == "below":
            assert before.count(f"{edit['anchor']}\n") == 1
            after = before.replace(f"{edit['anchor']}\n", f"{edit['anchor']}\n{code}")
        elif edit["where"] == "above":
            gap = "\n" * (len(edit["code"]) - len(edit["code"].rstrip("\n")) - 1)
            assert before.count(edit["anchor"]) == 1
            after = before.replace(edit["anchor"], f"{code}{gap}{edit['anchor']}")
        else:
            after = before + code
        path.write_text(after)
    return len({edit["file"] for edit in edits})


def test_instructions_add_a_resource(bake: Bake) -> None:
    project = bake()
    statements = re.findall(r"`((?:from|app\.)[^`/]+)`", section(project, "Add a resource"))
    register_model, import_router, include_router = statements

    layers = ("models", "repositories", "services", "schemas")
    for path in [*(f"app/{layer}/user.py" for layer in layers), "app/routers/users.py"]:
        copy_with_new_names(project, path)
    copy_with_new_names(project, "tests/routers/test_users.py")
    with (project / "app/models/__init__.py").open("a") as models:
        models.write(f"{register_model}\n")
    main = project / "app/main.py"
    source = main.read_text().replace("    return app\n", f"    {include_router}\n    return app\n")
    main.write_text(source.replace("from app.", f"{import_router}\nfrom app.", 1))

    make(project, "migrate")
    make(project, "revision", "MESSAGE=create orders")
    made = make(project, "migrate")
    assert re.search(r"^primary \(.*\): 1 applied: \w+$", made.stdout, re.M)
    tests = "tests/routers/test_orders.py tests/migrations"
    make(project, "format", "check", "test", f"ARGS=--db=sqlite {tests}")


def copy_with_new_names(project: Path, path: str) -> None:
    source = (project / path).read_text().replace("user", "order").replace("User", "Order")
    (project / path.replace("user", "order")).write_text(source)


def test_instructions_add_a_database(bake: Bake) -> None:
    project = bake()
    assert follow(project, "Add a database") == 5

    (project / "app/models/entry.py").write_text(TABLE)
    with (project / "app/models/__init__.py").open("a") as models:
        models.write("from app.models.entry import Entry as Entry\n")
    (project / "app/routers/entries.py").write_text(ROUTES)
    main = project / "app/main.py"
    main.write_text(
        main.read_text()
        .replace("    return app\n", "    app.include_router(entries)\n    return app\n")
        .replace(
            "from app.routers.",
            "from app.routers.entries import router as entries\nfrom app.routers.",
            1,
        )
    )
    (project / "tests/routers/test_entries.py").write_text(TESTS)

    make(project, "revision", "DATABASE=logging", "MESSAGE=create entries")
    made = make(project, "migrate")
    assert re.search(r"^logging \(.*\): 1 applied: \w+$", made.stdout, re.M)
    make(project, "format")
    make(project, "check", "test", "ARGS=--db=sqlite")


DELETIONS = re.findall(r"^- (.*)[.:]", section(ROOT / SERVICE, "Optional files"), re.M)


@pytest.mark.parametrize("contents", QUESTIONS["contents"])
@pytest.mark.parametrize("item", DELETIONS)
def test_optional_files_may_be_deleted(bake: Bake, item: str, contents: str) -> None:
    project = bake(contents=contents)
    paths = [project / name for name in re.findall(r"`([^`]+)`", item)]
    for path in paths:
        assert path.exists() or path.name == ".gitlab-ci.yml"  # rendered only for ci=gitlab
        if path.is_dir():
            shutil.rmtree(path)
        else:
            path.unlink(missing_ok=True)

    # These tests read the optional files. The others read only code, and take most of the time.
    names = ["conformance/deploy", "test_main.py", "docs/test_pages.py"]
    tests = [f"tests/{name}" for name in names if (project / "tests" / name).exists()]
    make(project, "test", f"ARGS=--db=sqlite {' '.join(tests)}")
