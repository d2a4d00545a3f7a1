"""The combinations of the closed questions, as cookiecutter.json has them."""

from itertools import combinations, product

from tests.conftest import QUESTIONS

Combination = dict[str, str]

CLOSED = {question: answers for question, answers in QUESTIONS.items() if isinstance(answers, list)}
COMBINATIONS = [dict(zip(CLOSED, answers, strict=True)) for answers in product(*CLOSED.values())]


def pairs(combination: Combination) -> set[tuple[tuple[str, str], ...]]:
    return {*combinations(combination.items(), 2)}


def covering_subset() -> list[Combination]:
    """Return combinations in which every pair of answers occurs.

    Each is the one with the most pairs that are missing yet, which need not give the fewest.
    """
    missing = set[tuple[tuple[str, str], ...]]().union(*map(pairs, COMBINATIONS))
    subset = []
    while missing:
        subset.append(max(COMBINATIONS, key=lambda combination: len(missing & pairs(combination))))
        missing -= pairs(subset[-1])
    return subset
