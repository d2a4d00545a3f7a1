"""Leave only the files that the answers ask for, begin a repository, say what comes next.

Here and in the other hook there is nothing but the standard library, no shell and no network.
"""

import json
import os
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
    "tests/core/web/test_streaming.py",
    "tests/docs/test_two_phase_commit.py",
    "tests/conformance/test_two_databases.py",
    "tests/repositories/test_event.py",
    "tests/repositories/test_growth_of_events.py",
    "tests/routers/test_events.py",
    "tests/routers/test_reports.py",
    "tests/services/test_report.py",
]


# What is left only where an answer asks for it. None of it is anybody's own: rendering has written it.
ASKED_FOR = [
    ("databases", "primary + analytics", ANALYTICS),
    ("ci", "github", [".github/dependabot.yml", ".github/workflows/ci.yml"]),
    ("ci", "gitlab", [".gitlab-ci.yml"]),
]
LICENSES = ["MIT", "Apache-2.0", "BSD-3-Clause", "Proprietary"]


def remove(path: Path) -> None:
    if path.is_dir():
        shutil.rmtree(path)
    else:
        path.unlink()


def keep_what_was_asked_for() -> None:
    for question, answer, names in ASKED_FOR:
        for path in map(Path, names if ANSWERS[question] != answer else []):
            remove(path)
            for folder in list(path.parents)[:-1]:
                if not any(folder.iterdir()):
                    folder.rmdir()
    Path(f"LICENSE.{ANSWERS['license']}").replace("LICENSE")
    for name in LICENSES:
        Path(f"LICENSE.{name}").unlink(missing_ok=True)


def remove_leftovers() -> None:
    """Remove what somebody who worked in the template's own folder left there: it is copied too.

    Only from a new project: in one that is rendered again, these are its owner's.
    """
    new_project = Path(".new-project")
    if not new_project.exists():
        return
    new_project.unlink()
    for pattern in ("__pycache__", ".*_cache", ".hypothesis", ".env", ".venv", "var"):
        for leftover in list(Path().rglob(pattern)):
            remove(leftover)


# Without what leads git to another repository, as in one of its own hooks.
ELSEWHERE = {"GIT_COMMON_DIR", "GIT_DIR", "GIT_INDEX_FILE", "GIT_OBJECT_DIRECTORY", "GIT_WORK_TREE"}
ENVIRONMENT = {name: value for name, value in os.environ.items() if name not in ELSEWHERE}


def begin_repository() -> None:
    """Begin a repository with a first commit, unless there is no git or this is inside one already.

    Without a commit where cruft renders: it compares what two versions of the template give with all
    that is in the folder, and an empty repository is like another.
    """
    if shutil.which("git") is None or git("rev-parse"):
        return
    git("init", "--quiet")
    if "_output_dir" not in ANSWERS:  # which Cookiecutter's command sets, and cruft does not
        return
    git("add", "--all")
    author = [f"user.name={ANSWERS['author_name']}", f"user.email={ANSWERS['author_email']}"]
    # The user's own hooks and keys are for the user's own commits.
    options = ["commit.gpgSign=false", f"core.hooksPath={os.devnull}"]
    settings = [part for option in author + options for part in ("-c", option)]
    commit = ["commit", "--quiet", "--message", "Begin with dbwarden-template"]
    if not git(*settings, *commit):  # there are names that git refuses, such as "."
        git(*settings, "-c", f"user.name={ANSWERS['project_slug']}", *commit)


def git(*arguments: str) -> bool:
    """Run git and say whether it has worked; a project without a commit is one nevertheless."""
    ran = subprocess.run(["git", *arguments], capture_output=True, check=False, env=ENVIRONMENT)
    return ran.returncode == 0


keep_what_was_asked_for()
remove_leftovers()
begin_repository()
print(f"""
cd {Path.cwd().name}
make run    # http://127.0.0.1:8000/docs, on SQLite
make test""")
