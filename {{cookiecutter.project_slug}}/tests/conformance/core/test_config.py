"""Settings: rarer spellings, refused values, and databases that no variable names."""

from pathlib import Path
from typing import Any

import pytest
from pydantic import SecretStr, ValidationError
from sqlalchemy import make_url

from app.core.config import DatabaseSettings, Settings, get_database, get_settings
from app.core.database.settings import ADDRESS
from app.core.db import ConfigurationError
from tests.support import set_production

SECRET = "p%40:/?#&ü"


def test_test_environment_has_its_own_sqlite_files() -> None:
    assert get_database().url().database == "var/test-primary.db"


def test_name_of_a_database_is_case_insensitive(environment: pytest.MonkeyPatch) -> None:
    environment.setenv("DATABASES", '{"PRIMARY": {"database_url": "sqlite:///p.db"}}')

    assert get_database().url().database == "p.db"


def test_both_spellings_may_have_the_same_value(environment: pytest.MonkeyPatch) -> None:
    environment.setenv("DATABASE_URL", "postgres://same/d")
    environment.setenv("DATABASES__PRIMARY__DATABASE_URL", "postgres://same/d")

    assert get_database().url().host == "same"


def test_dotenv_file_that_is_not_utf8_is_refused_without_showing_it(
    environment: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    dotenv = tmp_path / ".env"
    dotenv.write_bytes(b"DATABASE_URL=postgres://u:hidden\xff@h/d")
    environment.setitem(Settings.model_config, "env_file", dotenv)

    with pytest.raises(ConfigurationError, match="not UTF-8") as error:
        get_settings()

    assert "hidden" not in repr(error.value)


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


def test_any_name_can_be_a_database(environment: pytest.MonkeyPatch) -> None:
    environment.setenv("DATABASES__LOGGING__DATABASE_URL", "sqlite:///l.db")

    assert get_database("logging").url() == make_url("sqlite+aiosqlite:///l.db")


def test_missing_dev_url_is_an_error() -> None:
    with pytest.raises(ConfigurationError, match="DATABASES__PRIMARY__DEV_DATABASE_URL is not set"):
        get_database().url(dev=True)


def test_replica_and_direct_url_are_used(environment: pytest.MonkeyPatch) -> None:
    environment.setenv("DATABASE_URL", "postgres://h/d")
    environment.setenv("DATABASES__PRIMARY__READ_DATABASE_URL", "postgres://replica/d")
    environment.setenv("DATABASES__PRIMARY__MIGRATION_DATABASE_URL", "postgres://direct/d")

    assert get_database().url(read_only=True).host == "replica"
    assert get_database().migration_url().host == "direct"


def test_replica_and_direct_url_default_to_the_database_itself(
    environment: pytest.MonkeyPatch,
) -> None:
    environment.setenv("DATABASE_URL", "postgres://h/d")

    assert get_database().url() == get_database().url(read_only=True)
    assert get_database().url() == get_database().migration_url()


def test_settings_are_read_once_until_the_cache_is_cleared(environment: pytest.MonkeyPatch) -> None:
    environment.setenv("DATABASE_URL", "sqlite:///first.db")
    first = get_settings()
    environment.setenv("DATABASE_URL", "sqlite:///second.db")

    assert get_settings() is first
    assert get_database().url().database == "first.db"

    get_settings.cache_clear()

    assert get_database().url().database == "second.db"


def test_environment_overrides_the_dotenv_file(
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


def test_empty_variable_counts_as_not_set(environment: pytest.MonkeyPatch) -> None:
    set_production(environment)
    environment.setenv("DATABASES__PRIMARY__DATABASE_URL", "")

    with pytest.raises(ConfigurationError, match="DATABASES__PRIMARY__DATABASE_URL"):
        get_database()


REFUSED = [
    (
        {"DATABASES": '{"Primary": {}}', "DATABASES__PRIMARY__POOL_SIZE": "4"},
        "DATABASES: two names differ in case only: Primary, primary",
    ),
    ({"ENVIRONMENT": "prod"}, "ENVIRONMENT: Input should be 'local', 'test' or 'production'"),
    ({"FORWARDED_ALLOW_IPS": "10.0.0.1, proxy"}, "FORWARDED_ALLOW_IPS: 'proxy' does not appear"),
    (
        {"FORWARDED_ALLOW_IPS": "10.0.0.1/8"},
        "FORWARDED_ALLOW_IPS: 10.0.0.1/8 has host bits set: write addresses or networks",
    ),
    ({"DATABASES": "{"}, 'error parsing value for field "databases"'),
    ({"DATABASES__PRIMARY__POOL_SIZE": "0"}, "DATABASES__PRIMARY__POOL_SIZE: .* greater than"),
    ({"DATABASES__PRIMARY__POOL_TIMEOUT": "-1"}, "DATABASES__PRIMARY__POOL_TIMEOUT: .* greater"),
    ({"DATABASES__PRIMARY__URL": "x"}, "DATABASES__PRIMARY__URL: there is no such setting"),
    ({"DATABASES__PRIMARY__HOST": "h"}, "DATABASES__PRIMARY: HOST and DBNAME are both needed"),
    ({"DATABASES__PRIMARY__LOCK_TIMEOUT": "inf"}, "DATABASES__PRIMARY__LOCK_TIMEOUT: .* less"),
    (
        {
            "DATABASE_URL": "postgresql://u:hidden@a/d",
            "DATABASES__PRIMARY__DATABASE_URL": "postgresql://u:hidden@b/d",
        },
        "set DATABASE_URL or DATABASES__PRIMARY__DATABASE_URL, not both",
    ),
    (
        {
            "DATABASE_URL": "postgresql://u:hidden@a/d",
            "DATABASES__PRIMARY__HOST": "b",
            "DATABASES__PRIMARY__DBNAME": "d",
        },
        "set DATABASE_URL or DATABASES__PRIMARY__DATABASE_URL, not both",
    ),
    (
        {
            "DEV_DATABASE_URL": "postgresql://u:hidden@a/d",
            "DATABASES__PRIMARY__DEV_DATABASE_URL": "postgresql://u:hidden@b/d",
        },
        "set DEV_DATABASE_URL or DATABASES__PRIMARY__DEV_DATABASE_URL, not both",
    ),
    (
        {"DATABASES__PRIMARY__DATABASE_URL": "sqlite://", "DATABASES__PRIMARY__HOST": "h"},
        "DATABASES__PRIMARY: set DATABASE_URL or HOST, not both",
    ),
    (
        {"DATABASES__PRIMARY__DATABASE_URL": "mysql://u:hidden@h/d"},
        "DATABASES__PRIMARY__DATABASE_URL: the database 'mysql' is not supported",
    ),
    (
        {"DATABASE_URL": "postgresql+psycopg2://u:hidden@h/d"},
        r"DATABASE_URL: the driver of 'postgresql\+psycopg2' is not",
    ),
    (
        {"DATABASE_URL": "sqlite+pysqlite:///x.db"},
        r"DATABASE_URL: the driver of 'sqlite\+pysqlite' is not async: write sqlite://",
    ),
    (
        {"DATABASE_URL": "postgresql+asyncgp://u:hidden@h/d"},
        r"DATABASE_URL: the driver of 'postgresql\+asyncgp' is not installed",
    ),
    ({"DATABASE_URL": "oracle://u:hidden@h/d"}, "DATABASE_URL: the database 'oracle' is not"),
]


@pytest.mark.parametrize(("variables", "message"), REFUSED)
def test_invalid_value_is_refused_in_one_sentence_that_names_the_variable(
    environment: pytest.MonkeyPatch, variables: dict[str, str], message: str
) -> None:
    for name, value in variables.items():
        environment.setenv(name, value)

    with pytest.raises(ConfigurationError, match=message) as error:
        get_settings()

    assert "hidden" not in str(error.value)
    assert "\n" not in str(error.value)
    assert error.value.__suppress_context__


@pytest.mark.parametrize("name", ["live", "READY"])
def test_name_of_a_health_route_is_refused(environment: pytest.MonkeyPatch, name: str) -> None:
    environment.setenv(f"DATABASES__{name}__DATABASE_URL", "sqlite:///x.db")

    with pytest.raises(ConfigurationError, match=f"'{name.lower()}' is a page of /health"):
        get_settings()


@pytest.mark.parametrize("value", ["hidden\n", "hidden\r\n", " hidden", "hidden\u00a0"])
@pytest.mark.parametrize(
    "name",
    [
        *("DATABASE_URL", "DEV_DATABASE_URL"),
        *(f"DATABASES__PRIMARY__{field}".upper() for field in sorted(ADDRESS - {"port"})),
    ],
)
def test_white_space_around_a_value_is_refused(
    environment: pytest.MonkeyPatch, name: str, value: str
) -> None:
    environment.setenv("DATABASES__PRIMARY__HOST", "h")
    environment.setenv("DATABASES__PRIMARY__DBNAME", "d")
    environment.setenv(name, value)

    with pytest.raises(
        ConfigurationError, match=f"^{name}: the value starts or ends with"
    ) as error:
        get_settings()

    assert "hidden" not in str(error.value)


@pytest.fixture
def all_urls(environment: pytest.MonkeyPatch) -> DatabaseSettings:
    """Settings with every URL, and two values that are not the defaults."""
    for field in ("database", "dev_database", "read_database", "migration_database"):
        environment.setenv(f"DATABASES__PRIMARY__{field}_URL".upper(), f"postgres://{field}/d")
    environment.setenv("DATABASES__PRIMARY__POOL_SIZE", "7")
    environment.setenv("DATABASES__PRIMARY__LOCK_TIMEOUT", "3")
    return get_database()


def test_for_url_keeps_the_settings_and_drops_the_urls(
    all_urls: DatabaseSettings,
) -> None:
    other = all_urls.for_url("postgres://other/d", name="other", pool_size=2)

    assert other.urls() == {other.migration_url()} == {make_url("postgresql+asyncpg://other/d")}
    assert ("other", 2, 3) == (other.name, other.pool_size, other.lock_timeout)
    assert ("primary", 7) == (all_urls.name, all_urls.pool_size)
    assert all_urls.url().host == "database"
    with pytest.raises(ConfigurationError, match="DATABASES__OTHER__DEV_DATABASE_URL is not set"):
        other.url(dev=True)


def test_for_url_accepts_other_urls(all_urls: DatabaseSettings) -> None:
    other = all_urls.for_url("postgres://other/d", read_database_url="postgres://replica/d")

    assert other.url(read_only=True).host == "replica"
    assert other.name == "primary"


def test_for_url_works_if_the_url_is_given_in_parts(environment: pytest.MonkeyPatch) -> None:
    for field, value in {"HOST": "h", "USERNAME": "u", "PASSWORD": SECRET, "DBNAME": "d"}.items():
        environment.setenv(f"DATABASES__PRIMARY__{field}", value)

    other = get_database().for_url(get_database().url().set(database="e"))

    assert other.url() == get_database().url().set(database="e")
    assert other.url().password == SECRET
    assert SECRET not in repr(other)


@pytest.mark.parametrize(
    ("url", "changes", "message"),
    [
        ("mysql://u:hidden@h/d", {}, "DATABASE_URL: the database 'mysql' is not supported"),
        ("u:hidden@h/d", {}, "DATABASE_URL: not a database URL"),
        ("postgres://h/d", {"pool_size": 0}, "POOL_SIZE: .* greater than"),
        ("postgres://h/d", {"pool_sise": 2}, "POOL_SISE: there is no such setting"),
        ("postgres://h/d", {"port": 2222}, "set DATABASE_URL or PORT, not both"),
        ("postgres://h/d", {"read_database_url": "u:hidden@h"}, "READ_DATABASE_URL: not a"),
    ],
)
def test_for_url_refuses_invalid_values_in_one_sentence(
    url: str, changes: dict[str, Any], message: str
) -> None:
    with pytest.raises(ConfigurationError, match=message) as error:
        get_database().for_url(url, **changes)

    assert "hidden" not in str(error.value)
    assert error.value.__suppress_context__


@pytest.mark.parametrize("deep", [False, True])
def test_copy_with_another_url_uses_it(all_urls: DatabaseSettings, deep: bool) -> None:
    assert all_urls.url().host == "database"
    copy = all_urls.model_copy(update={"database_url": SecretStr("postgres://x/d")}, deep=deep)

    assert ("x", "database") == (copy.url().host, all_urls.url().host)


def test_settings_are_frozen() -> None:
    with pytest.raises(ValidationError, match="frozen"):
        get_database().pool_size = 1  # type: ignore[misc]
