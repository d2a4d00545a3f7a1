"""The settings. No other module reads environment variables. `.env.example` explains each setting.

The exceptions: OpenTelemetry's SDK reads its own variables, which `telemetry/settings.py` checks, and
asyncpg those of libpq. `database/libpq.py` reads PGSERVICEFILE too, `database/tls.py` PGSSLROOTCERT.
"""

from functools import lru_cache
from ipaddress import ip_network
from typing import Literal, TypeVar

from pydantic import Field, SecretStr, ValidationError, field_validator, model_validator
from pydantic_settings import BaseSettings, SettingsConfigDict, SettingsError

from app.core.database.errors import ConfigurationError, DatabaseNotFoundError
from app.core.database.settings import DatabaseSettings, DatabaseUrl, refusal, variable

__all__ = [
    "DATABASES",
    "DEFAULT_DATABASE",
    "DatabaseSettings",
    "Settings",
    "get_database",
    "get_databases",
    "get_settings",
    "read_settings",
    "variable",
]

DEFAULT_DATABASE = "primary"

DATABASES = [
    DEFAULT_DATABASE,
    # {% if cookiecutter.__analytics %}
    "analytics",
    # {% endif %}
]

AnySettings = TypeVar("AnySettings", bound=BaseSettings)


class Settings(BaseSettings):
    """The settings of the service. Environment variables take precedence over `.env`."""

    model_config = SettingsConfigDict(
        env_file=".env",
        env_file_encoding="utf-8",
        env_ignore_empty=True,
        env_nested_delimiter="__",
        extra="ignore",
        frozen=True,
        hide_input_in_errors=True,
    )

    environment: Literal["local", "test", "production"] = "local"
    log_level: Literal["DEBUG", "INFO", "WARNING", "ERROR"] = "INFO"
    log_format: Literal["text", "json"] | None = None
    migrate_on_start: bool = False
    port: int = Field(8000, ge=0, le=65535)
    web_concurrency: int = Field(1, ge=1)
    forwarded_allow_ips: str = "127.0.0.1,::1"
    keep_alive_timeout: int = Field(75, ge=1, le=3600)
    request_timeout: float = Field(60, gt=0, le=3600)
    write_timeout: float = Field(30, ge=0, le=3600)
    limit_concurrency: int = Field(0, ge=0)
    shutdown_delay: float = Field(1, ge=0, le=3600)
    shutdown_timeout: int = Field(20, ge=0, le=3600)
    database_url: DatabaseUrl | None = None
    dev_database_url: DatabaseUrl | None = None
    databases: dict[str, DatabaseSettings] = {}

    @property
    def logs_as(self) -> Literal["text", "json"]:
        return self.log_format or ("json" if self.environment == "production" else "text")

    @field_validator("forwarded_allow_ips")
    @classmethod
    def _are_addresses(cls, addresses: str) -> str:
        """Refuse what uvicorn accepts and never matches, such as a host name."""
        for address in addresses.split(",") if addresses != "*" else []:
            try:
                ip_network(address.strip())
            except ValueError as error:
                raise ValueError(f"{error}: write addresses or networks, or *") from None
        return addresses

    @field_validator("databases", mode="before")
    @classmethod
    def _fold_case(cls, databases: object) -> object:
        if not isinstance(databases, dict):
            return databases
        folded = {str(name).lower(): settings for name, settings in databases.items()}
        if len(folded) < len(databases):
            raise ValueError(f"two names differ in case only: {', '.join(sorted(databases))}")
        if taken := {"live", "ready"} & folded.keys():
            raise ValueError(
                f"{taken.pop()!r} is a page of /health: give the database another name"
            )
        return folded

    @model_validator(mode="after")
    def _complete(self) -> "Settings":
        """Set the name of each database, and a default URL if it has none."""
        for name in dict.fromkeys([*DATABASES, *self.databases]):
            settings = self.databases.get(name, DatabaseSettings())
            defaults: dict[str, SecretStr | None] = {}
            if name == DEFAULT_DATABASE:
                self._refuse_conflict(settings)
                defaults["dev_database_url"] = self.dev_database_url or settings.dev_database_url
            if not settings.is_configured:
                defaults["database_url"] = self._default_url(name)
            self.databases[name] = settings.model_copy(update=defaults)
            self.databases[name]._name = name
        return self

    def _refuse_conflict(self, settings: DatabaseSettings) -> None:
        """Refuse two different values for one setting."""
        urls = {self.database_url, settings.database_url} - {None}
        if len(urls) > 1 or (self.database_url and settings.host):
            raise ValueError(f"set DATABASE_URL or {variable(DEFAULT_DATABASE)}, not both")
        if len({self.dev_database_url, settings.dev_database_url} - {None}) > 1:
            long = variable(DEFAULT_DATABASE, "dev_database_url")
            raise ValueError(f"set DEV_DATABASE_URL or {long}, not both")

    def _default_url(self, database: str) -> SecretStr | None:
        if database == DEFAULT_DATABASE and self.database_url:
            return self.database_url
        if self.environment == "production":
            return None
        prefix = "test-" if self.environment == "test" else ""
        return SecretStr(f"sqlite:///var/{prefix}{database}.db")


@lru_cache
def get_settings() -> Settings:
    """Return the settings, read on the first call; `get_settings.cache_clear()` makes the next call read them again.

    Raises:
        ConfigurationError: a variable is missing or wrong. The message shows no values: one may be
            a secret.
    """
    return read_settings(Settings)


def read_settings(settings: type[AnySettings]) -> AnySettings:
    """Return the settings of this class, read from the environment.

    Raises:
        ConfigurationError: as `get_settings` does.
    """
    try:
        return settings()
    except ValidationError as error:
        raise refusal(error) from None
    except SettingsError as error:
        raise ConfigurationError(str(error)) from None
    except UnicodeDecodeError:  # its message would show the bytes
        raise ConfigurationError("the .env file is not UTF-8: save it as such") from None


def get_database(name: str | None = None) -> DatabaseSettings:
    """Return the settings of a database. None is the default database.

    Raises:
        DatabaseNotFoundError: no database has this name.
        ConfigurationError: it has no URL. A job needs only the URLs of the databases that it uses.
    """
    databases = get_settings().databases
    if name is None:
        name = DEFAULT_DATABASE
    if name not in databases:
        known = ", ".join(sorted(databases))
        raise DatabaseNotFoundError(f"there is no database {name!r}; there are: {known}")
    if not databases[name].is_configured:
        raise ConfigurationError(
            f"ENVIRONMENT=production needs a database URL: set {variable(name)}"
        )
    return databases[name]


def get_databases() -> dict[str, DatabaseSettings]:
    """Return the settings of all databases, by name.

    Raises:
        ConfigurationError: one has no URL.
    """
    return {name: get_database(name) for name in get_settings().databases}
