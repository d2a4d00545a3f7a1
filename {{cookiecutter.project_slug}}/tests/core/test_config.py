import re
from pathlib import Path

import pytest
from pydantic import ValidationError
from sqlalchemy import make_url

from app.core.config import (
    DATABASES,
    DatabaseSettings,
    Settings,
    get_database,
    get_settings,
    variable,
)
from app.core.db import ConfigurationError, DatabaseNotFoundError

EXAMPLE = Path(__file__).parents[2] / ".env.example"
SECRET = "p%40:/?#&ü"


def test_local_environment_needs_no_setting(environment: pytest.MonkeyPatch) -> None:
    environment.delenv("ENVIRONMENT")

    assert {f"sqlite+aiosqlite:///var/{name}.db" for name in DATABASES} == {
        str(get_database(name).url()) for name in DATABASES
    }


def test_test_environment_keeps_off_the_files_of_the_local_one() -> None:
    assert get_database().url().database == "var/test-primary.db"


def test_default_database_has_a_name_and_a_short_variable(environment: pytest.MonkeyPatch) -> None:
    environment.setenv("DATABASE_URL", "postgres://short/d")
    environment.setenv("DEV_DATABASE_URL", "postgres://dev/d")

    assert get_database() is get_database("primary")
    assert get_database().url().host == "short"
    assert get_database().url(dev=True).host == "dev"


def test_any_name_can_be_a_database(environment: pytest.MonkeyPatch) -> None:
    environment.setenv("DATABASES__LOGGING__DATABASE_URL", "sqlite:///l.db")

    assert get_database("logging").url() == make_url("sqlite+aiosqlite:///l.db")


def test_unknown_name_is_refused_with_the_known_ones() -> None:
    known = ", ".join(sorted(DATABASES))

    with pytest.raises(DatabaseNotFoundError, match=f"no database 'nope'; there are: {known}"):
        get_database("nope")


def test_url_can_be_given_in_parts(environment: pytest.MonkeyPatch) -> None:
    for field, value in {"HOST": "h", "USERNAME": "u", "PASSWORD": SECRET, "DBNAME": "d"}.items():
        environment.setenv(f"DATABASES__PRIMARY__{field}", value)

    url = get_database().url()

    assert ("h", 5432, "u", SECRET, "d") == (
        url.host,
        url.port,
        url.username,
        url.password,
        url.database,
    )


def test_replica_and_direct_url_are_used(environment: pytest.MonkeyPatch) -> None:
    environment.setenv("DATABASE_URL", "postgres://h/d")
    environment.setenv("DATABASES__PRIMARY__READ_DATABASE_URL", "postgres://replica/d")
    environment.setenv("DATABASES__PRIMARY__MIGRATION_DATABASE_URL", "postgres://direct/d")

    assert get_database().url(read_only=True).host == "replica"
    assert get_database().migration_url().host == "direct"


def test_dev_url_that_is_not_set_is_an_error() -> None:
    with pytest.raises(ConfigurationError, match="DATABASES__PRIMARY__DEV_DATABASE_URL is not set"):
        get_database().url(dev=True)


def test_settings_are_read_once_and_anew_when_asked(environment: pytest.MonkeyPatch) -> None:
    environment.setenv("DATABASE_URL", "sqlite:///first.db")
    first = get_settings()
    environment.setenv("DATABASE_URL", "sqlite:///second.db")

    assert get_settings() is first
    assert get_database().url().database == "first.db"

    get_settings.cache_clear()

    assert get_database().url().database == "second.db"


def test_dotenv_file_is_read_and_the_environment_goes_before_it(
    environment: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    dotenv = tmp_path / ".env"
    dotenv.write_text(
        "DATABASE_URL=sqlite:///file.db\nDATABASES__PRIMARY__POOL_SIZE=7\nSOMETHING_ELSE=1\n"
    )
    environment.setitem(Settings.model_config, "env_file", dotenv)

    assert get_database().url().database == "file.db"
    assert get_database().pool_size == 7

    environment.setenv("DATABASE_URL", "sqlite:///environment.db")
    get_settings.cache_clear()

    assert get_database().url().database == "environment.db"


@pytest.mark.parametrize("name", DATABASES)
def test_production_refuses_to_start_without_a_url(
    environment: pytest.MonkeyPatch, name: str
) -> None:
    environment.setenv("ENVIRONMENT", "production")
    for other in set(DATABASES) - {name}:
        environment.setenv(variable(other), "postgres://h/d")

    with pytest.raises(
        ConfigurationError, match=f"ENVIRONMENT=production .*: set {variable(name)}"
    ):
        get_settings()


def test_empty_variable_counts_as_not_set(environment: pytest.MonkeyPatch) -> None:
    environment.setenv("ENVIRONMENT", "production")
    environment.setenv("DATABASES__PRIMARY__DATABASE_URL", "")

    with pytest.raises(ConfigurationError, match="DATABASES__PRIMARY__DATABASE_URL"):
        get_settings()


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


@pytest.mark.parametrize("name", ["live", "READY"])
def test_name_that_is_a_page_of_health_is_refused(
    environment: pytest.MonkeyPatch, name: str
) -> None:
    environment.setenv(f"DATABASES__{name}__DATABASE_URL", "sqlite:///x.db")

    with pytest.raises(ConfigurationError, match=f"'{name.lower()}' is a page of /health"):
        get_settings()


def test_settings_cannot_be_changed_in_flight() -> None:
    with pytest.raises(ValidationError, match="frozen"):
        get_database().pool_size = 1  # type: ignore[misc]


def test_example_of_the_environment_holds_every_setting_with_its_default(
    environment: pytest.MonkeyPatch,
) -> None:
    environment.delenv("ENVIRONMENT")
    defaults = get_settings()
    example = EXAMPLE.read_text()
    names = re.findall(r"^([A-Z_]+)=", example, flags=re.MULTILINE)
    settings = [name.upper() for name in Settings.model_fields if name != "databases"]
    settings += [f"DATABASES__PRIMARY__{name.upper()}" for name in DatabaseSettings.model_fields]
    environment.setitem(Settings.model_config, "env_file", EXAMPLE)
    get_settings.cache_clear()

    assert sorted(settings) == sorted(names)
    assert defaults == get_settings()
