"""Records a first session at a terminal in the README: python -m tests.recording."""

import os
import pty
import re
import subprocess
import sys
from pathlib import Path
from tempfile import TemporaryDirectory

ROOT = Path(__file__).parents[1]
README = ROOT / "README.md"
SHOWN = re.compile(r"(?<=<!-- first session -->\n```console\n).*?(?=```\n)", re.DOTALL)

COMMAND = "cookiecutter gh:org/dbwarden-template"
TYPED = ["Order Service", "", "Takes orders.", *[""] * 8]
ESCAPES = re.compile(r"\x1b\[[0-9;?]*[a-zA-Z]")


def record(template: Path) -> str:
    """Return the terminal's output for a session with two answers and otherwise default values."""
    with TemporaryDirectory() as folder:
        config = Path(folder, "gitconfig")
        config.write_text("[user]\nname = Ada Lovelace\nemail = ada@example.com\n")
        settings = Path(folder, "settings.yaml")
        settings.write_text(f"cookiecutters_dir: {folder}/c\nreplay_dir: {folder}/r\n")
        ours, theirs = pty.openpty()
        asking = subprocess.Popen(
            [sys.executable, "-m", "cookiecutter", "--config-file", settings, template],
            cwd=folder,
            env=os.environ
            | {"COLUMNS": "80", "LINES": "25", "GIT_CONFIG_GLOBAL": str(config), "TERM": "dumb"},
            stdin=theirs,
            stdout=theirs,
            stderr=theirs,
        )
        os.close(theirs)
        shown, typed = b"", iter(TYPED)
        while piece := _read(ours):
            shown += piece
            if shown.endswith(b"): "):
                os.write(ours, f"{next(typed)}\n".encode())
        os.close(ours)
        assert asking.wait() == 0, shown
    text = ESCAPES.sub("", shown.decode()).replace("\r\n", "\n")
    lines = (line.rstrip() for line in f"$ {COMMAND}\n{text}".splitlines())
    return "\n".join(lines).rstrip() + "\n"


def _read(terminal: int) -> bytes:
    try:
        return os.read(terminal, 10_000)
    except OSError:  # Linux, when the process has closed its end
        return b""


if __name__ == "__main__":
    README.write_text(SHOWN.sub(lambda _: record(ROOT), README.read_text(), count=1))
