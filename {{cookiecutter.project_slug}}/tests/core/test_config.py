"""Settings: defaults, precedence, validation, and secrets that are never shown."""

import re
from collections.abc import Iterator
from pathlib import Path
from types import NoneType
from typing import get_args

import pytest
from pydantic import BaseModel

from app.core.config import (
    DATABASES,
    DatabaseSettings,
    Settings,
    get_database,
    get_databases,
    get_settings,
    variable,
)
from app.core.db import ConfigurationError, DatabaseNotFoundError
from tests.support import set_production

EXAMPLE = Path(__file__).parents[2] / ".env.example"


def test_local_environment_needs_no_setting(environment: pytest.MonkeyPatch) -> None:
    environment.delenv("ENVIRONMENT")

    assert {f"sqlite+aiosqlite:///var/{name}.db" for name in DATABASES} == {
        str(get_database(name).url()) for name in DATABASES
    }


def test_default_database_has_short_variables(environment: pytest.MonkeyPatch) -> None:
    environment.setenv("DATABASE_URL", "postgres://short/d")
    environment.setenv("DEV_DATABASE_URL", "postgres://dev/d")

    assert get_database() is get_database("primary")
    assert get_database().url().host == "short"
    assert get_database().url(dev=True).host == "dev"


def test_unknown_name_is_refused_and_the_known_ones_are_listed() -> None:
    known = ", ".join(sorted(DATABASES))

    with pytest.raises(DatabaseNotFoundError, match=f"no database 'nope'; there are: {known}"):
        get_database("nope")


@pytest.mark.parametrize("name", DATABASES)
def test_production_refuses_to_start_without_a_url(
    environment: pytest.MonkeyPatch, name: str
) -> None:
    set_production(environment)
    for other in set(DATABASES) - {name}:
        environment.setenv(variable(other), "postgres://h/d")

    with pytest.raises(
        ConfigurationError, match=f"ENVIRONMENT=production .*: set {variable(name)}"
    ):
        get_databases()


def test_secrets_are_in_no_repr(environment: pytest.MonkeyPatch) -> None:
    environment.setenv("DATABASE_URL", "postgres://u:hidden@h/d")
    environment.setenv("DEV_DATABASE_URL", "postgres://u:hidden@h/dev")
    environment.setenv("DATABASES__PRIMARY__READ_DATABASE_URL", "postgres://u:hidden@h/r")
    environment.setenv("DATABASES__OTHER__HOST", "h")
    environment.setenv("DATABASES__OTHER__DBNAME", "d")
    environment.setenv("DATABASES__OTHER__PASSWORD", "hidden")

    settings = get_settings()

    assert settings.databases["other"].url().password == "hidden"
    assert "hidden" not in f"{settings!r} {settings} {settings.model_dump()} {get_database()!r}"
    assert "hidden" not in f"{get_database().url()!r} {get_database().url(dev=True)!r}"


def test_env_example_has_every_setting_with_its_default(environment: pytest.MonkeyPatch) -> None:
    environment.delenv("ENVIRONMENT")
    defaults = get_settings()
    names = {*re.findall(r"^([A-Z0-9_]+)=", EXAMPLE.read_text(), flags=re.MULTILINE)}
    expected = {*variables(Settings), *variables(DatabaseSettings, "DATABASES__PRIMARY__")}
    environment.setitem(Settings.model_config, "env_file", EXAMPLE)
    get_settings.cache_clear()
    example = get_settings()

    missing, unknown = sorted(expected - names), sorted(names - expected)
    different = [name for name, value in defaults if value != getattr(example, name)]
    assert not missing, f"add to .env.example a line NAME=default and a comment for: {missing}"
    assert not unknown, f"remove from .env.example, or add to Settings in config.py: {unknown}"
    assert not different, f".env.example must show the default (None: nothing) of: {different}"


def variables(model: type[BaseModel], prefix: str = "") -> Iterator[str]:
    """Yield the variables of the settings, except those of the databases."""
    for name, field in model.model_fields.items():
        [alias, *_] = getattr(field.validation_alias, "choices", [field.validation_alias or name])
        variable = f"{prefix}{alias.upper()}"
        optional = NoneType in get_args(field.annotation)
        types = get_args(field.annotation) if optional else [field.annotation]
        if models := [t for t in types if isinstance(t, type) and issubclass(t, BaseModel)]:
            yield from variables(models[0], f"{variable}__")
        elif name != "databases":
            yield variable
