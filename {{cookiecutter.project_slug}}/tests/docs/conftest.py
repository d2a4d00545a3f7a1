"""Fixtures in which snippets run."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import MetaData
from sqlalchemy.orm import DeclarativeBase

from app.models import base
from tests.docs.snippets import find_snippet

Load = Callable[[str], Any]


@pytest.fixture(autouse=True)
def paths_of_the_pages(monkeypatch: pytest.MonkeyPatch) -> None:
    """Serve users at /users, as the pages show them, also if the service has an API_PREFIX."""
    monkeypatch.setattr("app.main.API_PREFIX", "")
    monkeypatch.setattr("tests.support.USERS", "/users")


@pytest.fixture
def surroundings(databases: None, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Migrated databases, new base classes and an empty working directory.

    A snippet may define tables. They must not stay in the metadata of the service: other tests would
    find that a migration is missing.
    """
    for name in [
        name for name in vars(base) if name.endswith("Base") and name != "DeclarativeBase"
    ]:
        metadata = MetaData(naming_convention=base.NAMING_CONVENTION)
        attributes = {"metadata": metadata, "type_annotation_map": base.TYPES}
        monkeypatch.setattr(base, name, type(name, (DeclarativeBase,), attributes))
    monkeypatch.chdir(tmp_path)


@pytest.fixture
def load(surroundings: None) -> Load:
    """Return a function that loads the snippet with a title as a module."""
    return lambda title: find_snippet(title).load("snippet")[0]
