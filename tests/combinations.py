"""The combinations of answers to the questions with choices in cookiecutter.json."""

from itertools import combinations, product

from tests.conftest import QUESTIONS

Combination = dict[str, str]

CLOSED = {question: answers for question, answers in QUESTIONS.items() if isinstance(answers, list)}
COMBINATIONS = [dict(zip(CLOSED, answers, strict=True)) for answers in product(*CLOSED.values())]


def pairs(combination: Combination) -> set[tuple[tuple[str, str], ...]]:
    return {*combinations(combination.items(), 2)}


def covering_subset(**answers: str) -> list[Combination]:
    """Return combinations with these answers that together contain every pair of the other answers.

    Greedy: each step takes the combination with the most missing pairs. The subset may not be the smallest.
    """
    possible = [c for c in COMBINATIONS if answers.items() <= c.items()]
    missing = set[tuple[tuple[str, str], ...]]().union(*map(pairs, possible))
    subset = []
    while missing:
        subset.append(max(possible, key=lambda combination: len(missing & pairs(combination))))
        missing -= pairs(subset[-1])
    return subset
