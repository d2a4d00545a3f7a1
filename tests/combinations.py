"""The combinations of answers to the questions with choices in cookiecutter.json."""

import re
from collections.abc import Iterable
from itertools import combinations, product
from typing import Any

from tests.conftest import QUESTIONS, ROOT, SERVICE, tracked_files

Combination = dict[str, str]
Part = tuple[tuple[str, str], ...]  # the answers to some of the questions

CLOSED = {question: answers for question, answers in QUESTIONS.items() if isinstance(answers, list)}
COMBINATIONS = [dict(zip(CLOSED, answers, strict=True)) for answers in product(*CLOSED.values())]
PAIRS: set[tuple[str, ...]] = {*combinations(CLOSED, 2)}


def part(combination: Combination, questions: Iterable[str]) -> Part:
    return tuple((question, combination[question]) for question in questions)


def covering_subset(groups: set[tuple[str, ...]] = PAIRS, **answers: str) -> list[Combination]:
    """Return combinations with these answers that together contain all answers to each group of questions.

    Greedy: each step takes the combination with the most missing parts. The subset may not be the smallest.
    """
    possible = [c for c in COMBINATIONS if answers.items() <= c.items()]
    parts = [{part(combination, group) for group in groups} for combination in possible]
    missing = set[Part]().union(*parts)
    subset = []
    while missing:
        best = max(range(len(possible)), key=lambda number: len(missing & parts[number]))
        subset.append(possible[best])
        missing -= parts[best]
    return subset


def questions_of_files(settings: dict[str, Any], hook: dict[str, Any]) -> dict[str, set[str]]:
    """Return the questions with choices that each file of the service depends on.

    A file depends on the questions in its text, directly or through a derived variable of cookiecutter.json, and
    on the answers for which the hook changes or deletes it.
    """
    found = {}
    for file in tracked_files(ROOT / SERVICE):
        path = file.relative_to(ROOT / SERVICE).as_posix()
        found[path] = _questions_in(file.read_text(encoding="utf-8"), settings)
        found[path] |= {
            question for question, _, names in hook["ASKED_FOR"] if hook["is_one_of"](path, names)
        }
        if path in hook["PAGES"]:
            found[path].add("contents")
        if path.startswith("LICENSE."):
            found[path].add("license")
    # The hook renames the file of the chosen license.
    found["LICENSE"] = set[str]().union(
        *(questions for path, questions in found.items() if path.startswith("LICENSE."))
    )
    return found


def _questions_in(text: str, settings: dict[str, Any]) -> set[str]:
    names = {*re.findall(r"cookiecutter\.(\w+)", text)}
    derived = (settings[name] for name in names if name.startswith("__"))
    return {name for name in names if name in CLOSED}.union(
        *(_questions_in(value, settings) for value in derived)
    )
