"""Delete the files that the answers do not ask for, create a repository, print the next steps.

Both hooks use the standard library only, no shell and no network.
"""

import json
import os
import posixpath
import re
import shutil
import subprocess
from pathlib import Path

ANSWERS = json.loads(r"""{{ cookiecutter | tojson }}""")

ANALYTICS = [
    "app/core/web/streaming.py",
    "app/migrations/analytics",
    "app/models/event.py",
    "app/repositories/event.py",
    "app/routers/events.py",
    "app/routers/reports.py",
    "app/schemas/event.py",
    "app/schemas/report.py",
    "app/services/event.py",
    "app/services/report.py",
    "tests/conformance/core/web/test_streaming.py",
    "tests/conformance/repositories/test_event.py",
    "tests/conformance/repositories/test_growth_of_events.py",
    "tests/conformance/routers/test_events.py",
    "tests/conformance/test_two_databases.py",
    "tests/core/test_two_databases.py",
    "tests/docs/test_two_phase_commit.py",
    "tests/repositories/test_event.py",
    "tests/routers/test_events.py",
    "tests/routers/test_reports.py",
    "tests/services/test_report.py",
]

# Pages of patterns, the tests that run their examples, and the exhaustive tests.
REFERENCE = [
    "docs/coming-from.md",
    "docs/databases.md",
    "docs/migrations.md",
    "docs/private-apis.md",
    "docs/session-patterns.md",
    "docs/testing.md",
    "docs/transactions.md",
    "docs/troubleshooting.md",
    "tests/conformance",
    "tests/docs",
]

# A question, an answer, and the files that are deleted for every other answer. Never a file of the owner.
ASKED_FOR = [
    ("databases", "primary + analytics", ANALYTICS),
    ("contents", "service + reference", REFERENCE),
    ("ci", "github", [".github/dependabot.yml", ".github/workflows/ci.yml"]),
    ("ci", "gitlab", [".gitlab-ci.yml"]),
]
LICENSES = ["MIT", "Apache-2.0", "BSD-3-Clause", "Proprietary"]

# Pages of the service link to pages of the reference. Without the reference, they link to the template's repository.
PAGES = ["README.md", "deploy/README.md", "docs/operations.md", "docs/sessions.md"]
LINK = re.compile(rb"(?<=\]\()(?!https?:|#)[^)#]+")
TEMPLATE = (
    "https://github.com/org/dbwarden-template/blob/main/%7B%7Bcookiecutter.project_slug%7D%7D"
)


def is_one_of(path: str, names: list[str]) -> bool:
    """Return whether the path is one of these files, or in one of these folders."""
    return any(f"{path}/".startswith(f"{name}/") for name in names)


def remove(path: Path) -> None:
    if path.is_dir():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def delete_files_of_other_answers() -> None:
    for question, answer, names in ASKED_FOR:
        for path in map(Path, names if ANSWERS[question] != answer else []):
            remove(path)
            for folder in list(path.parents)[:-1]:
                if folder.is_dir() and not any(folder.iterdir()):
                    folder.rmdir()
    Path(f"LICENSE.{ANSWERS['license']}").replace("LICENSE")
    for name in LICENSES:
        Path(f"LICENSE.{name}").unlink(missing_ok=True)


def link_to_the_template() -> None:
    """Point links to files of the reference that were deleted to the template's repository."""
    for page in map(Path, PAGES):

        def target(link: re.Match[bytes], folder: str = page.parent.as_posix()) -> bytes:
            path = posixpath.normpath(f"{folder}/{link[0].decode()}")
            return f"{TEMPLATE}/{path}".encode() if is_one_of(path, REFERENCE) else link[0]

        page.write_bytes(LINK.sub(target, page.read_bytes()))


def remove_leftovers() -> None:
    """Remove caches and local files that Cookiecutter copied from the template's folder.

    Only from a new project. In a project that is rendered again, they belong to the owner.
    """
    new_project = Path(".new-project")
    if not new_project.exists():
        return
    new_project.unlink()
    for pattern in ("__pycache__", ".*_cache", ".hypothesis", ".env", ".venv", "var"):
        for leftover in list(Path().rglob(pattern)):
            remove(leftover)


# Variables that point git to another repository. Git sets them when it runs hooks.
ELSEWHERE = {"GIT_COMMON_DIR", "GIT_DIR", "GIT_INDEX_FILE", "GIT_OBJECT_DIRECTORY", "GIT_WORK_TREE"}
ENVIRONMENT = {name: value for name, value in os.environ.items() if name not in ELSEWHERE}


def create_repository() -> bool:
    """Create a repository with a first commit, unless git is missing or the folder is in a repository.

    Return whether there is a repository without a commit.

    No commit if cruft renders: cruft compares the folders of two versions, `.git` included, and only repositories
    without a commit are equal.
    """
    if shutil.which("git") is None or git("rev-parse"):
        return False
    git("init", "--quiet")
    if "_output_dir" not in ANSWERS:  # cookiecutter sets it, cruft does not
        return True
    git("add", "--all")
    author = [f"user.name={ANSWERS['author_name']}", f"user.email={ANSWERS['author_email']}"]
    # Do not run the user's git hooks, and do not sign.
    options = ["commit.gpgSign=false", f"core.hooksPath={os.devnull}"]
    settings = [part for option in author + options for part in ("-c", option)]
    commit = ["commit", "--quiet", "--message", "Begin with dbwarden-template"]
    if git(*settings, *commit):
        return False
    # git refuses some names, such as "."
    return not git(*settings, "-c", f"user.name={ANSWERS['project_slug']}", *commit)


def git(*arguments: str) -> bool:
    """Run git and return whether it succeeded. The project is complete without a commit."""
    ran = subprocess.run(["git", *arguments], capture_output=True, check=False, env=ENVIRONMENT)
    return ran.returncode == 0


delete_files_of_other_answers()
if ANSWERS["contents"] == "service":
    link_to_the_template()
remove_leftovers()
needs_commit = create_repository()
print(f"\ncd {Path.cwd().name}")
if needs_commit:
    print("git add --all && git commit --message 'Begin with dbwarden-template'")
print("""make run    # http://127.0.0.1:8000/docs, on SQLite
make test""")
