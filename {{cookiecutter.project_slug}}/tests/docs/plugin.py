"""The option --update-examples: write into docs/ what the examples print."""

import pytest


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--update-examples", action="store_true", help="write in docs/ what is printed"
    )
