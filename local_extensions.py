"""Jinja filters for the questions: derived defaults, validation of answers, answers that are plain text.

Cookiecutter and cruft import this module from the template (`_extensions` in cookiecutter.json) and run it in their
Python, before they write a file.
"""

import json
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

from cookiecutter.exceptions import FailedHookException
from jinja2 import Environment
from jinja2.ext import Extension
from slugify import slugify

ROOT = Path(__file__).parent
SERVICE = "{{cookiecutter.project_slug}}"

Answers = dict[str, Any]

EXAMPLES = {
    "project_name": "Order Service",
    "project_slug": "order-service",
    "description": "Takes orders.",
    "author_name": "Ada Lovelace",
    "author_email": "ada@example.com",
}
LONGEST_SLUG = 63  # characters, the limit of a DNS label
SLUG = re.compile(r"[a-z][a-z0-9]*(-[a-z0-9]+)*")
# Without quoted local parts: the metadata of a Python package cannot hold them.
EMAIL = re.compile(
    r"[\w!#$%&'*+/=?^`{|}~-]+(\.[\w!#$%&'*+/=?^`{|}~-]+)*@[\w-]+(\.[\w-]+)+", re.ASCII
)
# The characters that YAML can hold, without line breaks. https://yaml.org/spec/1.1/#id868524
ONE_LINE = re.compile(
    "[\x20-\x7e\xa0-\u2027\u202a-\ud7ff\ue000-\ufefe\uff00-\ufffd\U00010000-\U0010ffff]+"
)
RESERVED_BY_WINDOWS = {"con", "prn", "aux", "nul"} | {
    f"{x}{n}" for x in ("com", "lpt") for n in range(10)
}


class Questions(Extension):
    """Filters that take all answers so far. Answers are not rendered as templates."""

    def __init__(self, environment: Environment) -> None:
        super().__init__(environment)
        self._templates = _texts_that_are_templates()
        environment.filters |= {
            "default_slug": default_slug,
            "default_author": default_author,
            "default_email": default_email,
            "check": check,
            "complaint": complaint,
        }

    def preprocess(self, source: str, name: str | None, filename: str | None = None) -> str:
        """Return the source, or a template that prints it literally if the source is an answer.

        Cookiecutter renders answers from the command line. Files of the template have a name. Sources without
        a name are defaults of cookiecutter.json, hooks, the name of the folder, or an answer.
        """
        if name is not None or source in self._templates:
            return source
        text = source.encode("unicode_escape").decode("ascii").replace('"', r"\"")
        return f'{{{{ "{text}" }}}}'


def _texts_that_are_templates() -> set[str]:
    """Read them on each call: during an update, cruft imports this module once for two versions."""
    hooks = (hook.read_text(encoding="utf-8") for hook in ROOT.glob("hooks/*.py"))
    settings = _settings().values()
    return {SERVICE, *hooks, *(text for text in settings if isinstance(text, str))}


def _settings() -> dict[str, Any]:
    settings: dict[str, Any] = json.loads((ROOT / "cookiecutter.json").read_text(encoding="utf-8"))
    return settings


def default_slug(answers: Answers) -> str:
    """Return a valid slug for the name of the project."""
    slug: str = slugify(answers["project_name"], max_length=LONGEST_SLUG).lstrip("0123456789-")
    return slug if slug and slug not in RESERVED_BY_WINDOWS else f"{slug}-service".lstrip("-")


def default_author(_: Answers) -> str:
    return _git_config("user.name", ONE_LINE) or "Your Name"


def default_email(_: Answers) -> str:
    return _git_config("user.email", EMAIL) or "you@example.com"


def check(answers: Answers) -> str:
    """Return "yes" if all answers are valid.

    Raises:
        FailedHookException: an answer is invalid. stderr says why.
    """
    if message := complaint(answers):
        print(message, file=sys.stderr)
        raise FailedHookException("Nothing was rendered.")
    return "yes"


def complaint(answers: Answers) -> str:
    """Return a sentence about the first invalid answer, with its value and an example, or ""."""
    for name, example in EXAMPLES.items():
        value = answers[name]
        if wrong := _what_is_wrong(name, value):
            return f"{name}={value!r} {wrong}, such as {example!r}."
    for name, choices in _settings().items():
        if isinstance(choices, list) and not name.startswith("_") and answers[name] not in choices:
            return f"{name}={answers[name]!r} must be one of {', '.join(map(repr, choices))}."
    return ""


def _what_is_wrong(name: str, value: object) -> str | None:
    if not (isinstance(value, str) and value.strip() and ONE_LINE.fullmatch(value)):
        return "must be one line of text"
    if name == "author_email" and not EMAIL.fullmatch(value):
        return "must be an e-mail address"
    if name != "project_slug":
        return None
    if not SLUG.fullmatch(value) or len(value) > LONGEST_SLUG:
        return (
            "must be lower-case letters, digits and single hyphens, begin with a letter and have "
            f"{LONGEST_SLUG} characters at most"
        )
    return "must be a name that Windows does not reserve" if value in RESERVED_BY_WINDOWS else None


def _git_config(key: str, form: re.Pattern[str]) -> str | None:
    """Return this value of git's configuration if it is set and is a valid answer."""
    try:
        found = subprocess.run(
            ["git", "config", "--get", key], capture_output=True, check=False, encoding="utf-8"
        )
    except (OSError, UnicodeDecodeError):
        return None
    value = found.stdout.strip()
    return value if form.fullmatch(value) else None
