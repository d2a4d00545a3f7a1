"""Where a snippet runs: migrated databases, tables of its own, an empty folder."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import MetaData
from sqlalchemy.orm import DeclarativeBase

from app.models import base
from tests.docs.snippets import find_snippet

Load = Callable[[str], Any]


@pytest.fixture
def surroundings(databases: None, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """What a snippet that says `from app.models.base import PrimaryBase` adds to is a base of its own.

    The service's own would keep the table, and a migration would be missing.
    """
    for name in [
        name for name in vars(base) if name.endswith("Base") and name != "DeclarativeBase"
    ]:
        metadata = MetaData(naming_convention=base.NAMING_CONVENTION)
        monkeypatch.setattr(base, name, type(name, (DeclarativeBase,), {"metadata": metadata}))
    monkeypatch.chdir(tmp_path)


@pytest.fixture
def load(surroundings: None) -> Load:
    """Return what the snippet of a title defines."""
    return lambda title: find_snippet(title).load("snippet")[0]
