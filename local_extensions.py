"""What Cookiecutter needs to ask well: defaults that fit, answers that are text, and refusals.

Cookiecutter imports this from the template (`_extensions` in cookiecutter.json), and so does cruft. It runs
in their Python, before anything is written: what is refused here leaves nothing behind.
"""

import json
import keyword
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import click
from cookiecutter.exceptions import FailedHookException
from jinja2 import Environment
from jinja2.ext import Extension
from slugify import slugify

ROOT = Path(__file__).parent
SERVICE = "{{cookiecutter.project_slug}}"
PYPROJECT = ROOT / SERVICE / "pyproject.toml"

Answers = dict[str, Any]

EXAMPLES = {
    "project_name": "Order Service",
    "project_slug": "order-service",
    "description": "Takes orders.",
    "author_name": "Ada Lovelace",
    "author_email": "ada@example.com",
}
LONGEST_SLUG = 63  # characters, as of a label of DNS
SLUG = re.compile(r"[a-z][a-z0-9]*(-[a-z0-9]+)*")
# Not what the standard allows in quotes, which nobody has and no metadata of a package can hold.
EMAIL = re.compile(
    r"[\w!#$%&'*+/=?^`{|}~-]+(\.[\w!#$%&'*+/=?^`{|}~-]+)*@[\w-]+(\.[\w-]+)+", re.ASCII
)
# What YAML can hold, without what ends a line. https://yaml.org/spec/1.1/#id868524
ONE_LINE = re.compile(
    "[\x20-\x7e\xa0-\u2027\u202a-\ud7ff\ue000-\ufefe\uff00-\ufffd\U00010000-\U0010ffff]+"
)
RESERVED_BY_WINDOWS = {"con", "prn", "aux", "nul"} | {
    f"{x}{n}" for x in ("com", "lpt") for n in range(10)
}
NEEDED = {"app", "test", "tests", "docs", "pip", "python", "uv", "git", "make", "hatchling"}
# What the requirements bring along: their packages, and the commands in .venv/bin.
NEEDED |= set(
    """
    activate annotated-doc annotated-types anyio ast-serialize boolean-py cachecontrol certifi
    charset-normalizer click cyclonedx-python-lib defusedxml dmypy dnspython docker doesitcache
    dotenv execnet fasteners filelock googleapis-common-protos greenlet grimp h11 httpcore2
    httptools idna iniconfig librt license-expression lint-imports mako mako-render markdown-it
    markdown-it-py markupsafe mdurl msgpack mypy-extensions mypyc normalizer opentelemetry-api
    opentelemetry-exporter-http-transport opentelemetry-exporter-otlp-common
    opentelemetry-exporter-otlp-proto-common opentelemetry-proto
    opentelemetry-semantic-conventions packageurl-python packaging pathspec pip-api
    pip-requirements-parser pip3 platformdirs pluggy protobuf psutil py-serializable pydantic
    pydantic-core pygmentize pygments pyparsing python-dotenv python3 pyyaml requests rich
    shellingham sortedcontainers starlette stubgen stubtest tomli tomli-w truststore
    typing-extensions typing-inspection urllib3 uvloop watchfiles websockets wrapt
    """.split()  # noqa: SIM905, a list of words
)


class Questions(Extension):
    """Filters that take all answers given so far, and the rule that an answer is no template."""

    def __init__(self, environment: Environment) -> None:
        super().__init__(environment)
        self._ours = _texts_that_are_templates()
        environment.filters |= {
            "default_slug": default_slug,
            "default_author": default_author,
            "default_email": default_email,
            "check": check,
            "complaint": complaint,
        }

    def preprocess(self, source: str, name: str | None, filename: str | None = None) -> str:
        """Let an answer show what was typed: Cookiecutter renders what the command line gives it.

        What has a name is a file of the template. What has none is a default of ours, a hook, the
        name of our folder, or somebody's text.
        """
        if name is not None or source in self._ours:
            return source
        text = source.encode("unicode_escape").decode("ascii").replace('"', r"\"")
        return f'{{{{ "{text}" }}}}'


def _texts_that_are_templates() -> set[str]:
    """Return them as they are now: in an update, cruft imports this once and looks at two versions."""
    hooks = (hook.read_text(encoding="utf-8") for hook in ROOT.glob("hooks/*.py"))
    settings = _settings().values()
    return {SERVICE, *hooks, *(text for text in settings if isinstance(text, str))}


def _settings() -> dict[str, Any]:
    settings: dict[str, Any] = json.loads((ROOT / "cookiecutter.json").read_text(encoding="utf-8"))
    return settings


def default_slug(answers: Answers) -> str:
    """Return a slug for the name of the project that will not be refused."""
    slug: str = slugify(answers["project_name"], max_length=LONGEST_SLUG).lstrip("0123456789-")
    return slug if slug and not _taken_by(slug) else f"{slug}-service".lstrip("-")


def default_author(_: Answers) -> str:
    return _git_config("user.name", ONE_LINE) or "Your Name"


def default_email(_: Answers) -> str:
    return _git_config("user.email", EMAIL) or "you@example.com"


def check(answers: Answers) -> str:
    """Return "yes" if all answers will do.

    Raises:
        FailedHookException: one will not do; what is wrong with it has been said on stderr.
    """
    if said := complaint(answers) or _complaint_about_folder(answers["project_slug"]):
        print(said, file=sys.stderr)
        raise FailedHookException("Nothing was rendered.")
    return "yes"


def complaint(answers: Answers) -> str:
    """Return what is wrong: the answer, its value and what would be right. "" if nothing is."""
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
    if taken_by := _taken_by(value):
        return f"must be a name that is not taken, as it is by {taken_by}"
    return None


def _taken_by(slug: str) -> str | None:
    if slug in RESERVED_BY_WINDOWS:
        return "Windows"
    if keyword.iskeyword(slug) or slug.replace("-", "_") in sys.stdlib_module_names:
        return "Python"
    if slug in NEEDED or slug in _requirements():
        return "something that the service or its checks need"
    return None


def _requirements() -> set[str]:
    """Return the names of the packages that the service and its tests install."""
    return set(
        re.findall(
            r'^ *"?([a-z0-9-]+)(?:\[\w+\])?>=', PYPROJECT.read_text(encoding="utf-8"), re.MULTILINE
        )
    )


def _complaint_about_folder(slug: str) -> str | None:
    """Complain of a folder that is in the way, if the command line tells where it would be."""
    context = click.get_current_context(silent=True)
    options = context.params if context else {}
    if "output_dir" not in options or options.get("overwrite_if_exists"):
        return None
    folder = Path(options["output_dir"], slug)
    if not os.path.lexists(folder):
        return None
    hint = ", or overwrite it with --overwrite-if-exists" if folder.is_dir() else ""
    return (
        f"project_slug={slug!r} must be the name of a folder that does not exist, as {folder} does: "
        f"take {slug + '-2'!r}, say{hint}."
    )


def _git_config(key: str, form: re.Pattern[str]) -> str | None:
    """Return what git knows of its user, if it knows it and it will do as an answer."""
    try:
        said = subprocess.run(
            ["git", "config", "--get", key], capture_output=True, check=False, encoding="utf-8"
        )
    except (OSError, UnicodeDecodeError):
        return None
    value = said.stdout.strip()
    return value if form.fullmatch(value) else None
