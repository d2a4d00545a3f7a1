"""The first session that the README shows is the one that there is."""

from pathlib import Path

from tests.recording import README, SHOWN, record


def test_first_session_of_the_readme_is_true(template: Path) -> None:
    assert SHOWN.findall(README.read_text()) == [record(template)]
