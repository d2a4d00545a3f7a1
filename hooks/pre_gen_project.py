"""Refuse an answer that would make a broken service, in one sentence that says what would do."""

import json
import re
import sys
from pathlib import Path

# The filter escapes every quote but the ones that JSON needs, so that no answer can end the string.
ANSWERS = json.loads(r"""{{ cookiecutter | tojson }}""")

CONTROL = re.compile(r"[\x00-\x1f\x7f]")
SLUG = re.compile(r"[a-z][a-z0-9]*(-[a-z0-9]+)*")
TAKEN = {
    "aiosqlite",
    "alembic",
    "app",
    "asyncpg",
    "email-validator",
    "fastapi",
    "hatchling",
    "httpx2",
    "import-linter",
    "mypy",
    "pip",
    "pydantic-settings",
    "pytest",
    "pytest-asyncio",
    "python",
    "ruff",
    "sqlalchemy",
    "test",
    "tests",
    "typer",
    "uv",
    "uvicorn",
}
EMAIL = re.compile(r"[^@\s\"\\]+@[^@\s\"\\]+\.[^@\s\"\\]+")


def complaint(answers: dict[str, str]) -> str | None:
    """Return what is wrong with the answers, None if nothing is."""
    for name in ("project_name", "description", "author_name"):
        if not answers[name].strip() or CONTROL.search(answers[name]):
            return f"{name}={answers[name]!r} must be one line of text, such as 'Order Service'."
    slug, email = answers["project_slug"], answers["author_email"]
    if not SLUG.fullmatch(slug) or len(slug) > 63:
        return (
            f"project_slug={slug!r} must be lower-case letters, digits and single hyphens, begin "
            "with a letter and have 63 characters at most, such as 'order-service'."
        )
    if slug in TAKEN:
        return (
            f"project_slug={slug!r} is taken by a package or a command: take 'order-service', say."
        )
    if not EMAIL.fullmatch(email):
        return f"author_email={email!r} must be an e-mail address, such as 'ada@example.com'."
    return None


if refusal := complaint(ANSWERS):
    sys.exit(refusal)
if not any(Path().iterdir()):
    Path(".new-project").touch()  # tells the other hook that nothing here is somebody's work
