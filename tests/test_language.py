"""Text uses the field's standard terms: no words of a private vocabulary."""

import re
from pathlib import Path

import pytest

from tests.conftest import ROOT, SERVICE, tracked_files

# Each pattern with its replacement. Sentences that begin with "Who" or "What" must be questions.
RETIRED = {
    r"\b[Ww]hoever\b": "the actor: the client, the service, you",
    r"(?:^|[.:] |\"\"\"|# |\| )Wh(?:o|at) [a-z][^?]*$": "the actor or the thing that is meant",
    r"\bwho (?:asks|calls|comes|gives|leaves|sends|stops|tries|waits)\b": "the client, the caller",
    r"\banew\b": "again, new",
    r"\b[Rr]ooms?\b": "layer, package, module",
    r"\b[Nn]ouns?\b": "resource",
    r"\b(?:error|before the|after the|the first) answer\b": "response",
    r"\banswer(?:s|ed)? with\b|\b(?:is|are|was) answered\b": "respond with, return",
    r"\b(?:give|gives|gave|given|giving) up\b": "fail, time out, roll back, raise",
    r"\b(?:is|are|was|has|have) gone\b": "closed, removed, unavailable",
    r"\b(?:hear|hears|heard) of\b": "register, import, notify",
    r"\b(?:is|are|was) told\b": "return, log, notify",
    r"\bspeaks?\b": "logs, uses, supports",
    r"\bclients? (?:that|who|which) (?:leave|leaves|left)\b": "client disconnects",
}
IN_THE_SERVICE = {r"\b[Aa]nswer(?:s|ed|ing)?\b": "response, respond, return"}
DATA = {".json", ".svg"}


def retired_words(path: Path) -> list[str]:
    words = RETIRED | (IN_THE_SERVICE if SERVICE in path.parts else {})
    return [
        f"{path.relative_to(ROOT)}:{number}: {found.group(0)!r}: write {instead}"
        for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1)
        for pattern, instead in words.items()
        if (found := re.search(pattern, line))
    ]


def test_text_has_no_retired_words() -> None:
    texts = [path for path in tracked_files() if path.suffix not in DATA]
    texts = [path for path in texts if path != Path(__file__) and "LICENSE" not in path.name]

    found = [line for path in texts for line in retired_words(path)]

    assert not found, "\n".join(found)


@pytest.mark.parametrize(
    "line",
    [
        "Who sends it again does not want to wait.",
        "A new noun is five small files.",
        "The request is answered with 503.",
        "A client that leaves cancels its request.",
    ],
)
def test_retired_words_are_found(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, line: str
) -> None:
    monkeypatch.setattr(f"{__name__}.ROOT", tmp_path)
    path = tmp_path / "page.md"
    path.write_text(f"# Page\n\n{line}\n")

    assert len(retired_words(path)) == 1
