"""The settings: the only reader of the environment. Each variable is explained in .env.example.

OpenTelemetry's own are read by its SDK, and checked in telemetry/settings.py.
"""

from collections.abc import Mapping
from functools import lru_cache
from typing import Annotated, Any, Literal, TypeVar

from pydantic import (
    AfterValidator,
    BaseModel,
    ConfigDict,
    Field,
    PrivateAttr,
    SecretStr,
    ValidationError,
    field_validator,
    model_validator,
)
from pydantic_settings import BaseSettings, SettingsConfigDict, SettingsError
from sqlalchemy import URL

from app import NAME
from app.core.errors import ConfigurationError, DatabaseNotFoundError
from app.core.urls import refuse_unusable_driver, resolve_async_url

DEFAULT_DATABASE = "primary"

DATABASES = [
    DEFAULT_DATABASE,
    # {% if cookiecutter.__analytics %}
    "analytics",
    # {% endif %}
]

# What says where a database is.
ADDRESS = {
    *("database_url", "dev_database_url", "read_database_url", "migration_database_url"),
    *("host", "port", "username", "password", "dbname"),
}

AnySettings = TypeVar("AnySettings", bound=BaseSettings)
Seconds = Annotated[float, Field(ge=0, le=2_000_000)]  # PostgreSQL counts milliseconds in 32 bits


def _is_usable(url: SecretStr) -> SecretStr:
    refuse_unusable_driver(resolve_async_url(url.get_secret_value()))
    return url


DatabaseUrl = Annotated[SecretStr, AfterValidator(_is_usable)]


class DatabaseSettings(BaseModel):
    """One database: `DATABASES__<NAME>__<FIELD>`. Times are in seconds."""

    model_config = ConfigDict(extra="forbid", frozen=True, hide_input_in_errors=True)

    database_url: DatabaseUrl | None = None
    dev_database_url: DatabaseUrl | None = None
    read_database_url: DatabaseUrl | None = None
    read_fallback: bool = False
    migration_database_url: DatabaseUrl | None = None

    host: str | None = None
    port: int = Field(5432, ge=1, le=65535)
    username: str | None = None
    password: SecretStr | None = None
    dbname: str | None = None

    pool_size: int = Field(20, ge=1)
    max_overflow: int = Field(0, ge=0)
    pool_timeout: Seconds = 5
    pool_recycle: Seconds = 1800
    connect_timeout: float = Field(5, gt=0, le=2_000_000)
    tcp_keepalive: float = Field(30, ge=0, le=32_767)  # what TCP can be told
    statement_timeout: Seconds = 30
    lock_timeout: Seconds = 10
    idle_in_transaction_timeout: Seconds = 60
    migration_lock_timeout: Seconds = 300
    application_name: str = Field(NAME, max_length=63)
    pgbouncer: bool = False

    _name: str = PrivateAttr("")
    _urls: dict[str, URL] = PrivateAttr(default_factory=dict)

    @model_validator(mode="after")
    def _url_or_parts(self) -> "DatabaseSettings":
        parts = {"host", "username", "password", "dbname"} & self.model_fields_set
        if parts and self.database_url:
            raise ValueError(f"set DATABASE_URL or {'/'.join(sorted(parts)).upper()}, not both")
        if parts and not (self.host and self.dbname):
            raise ValueError("HOST and DBNAME are both needed where the URL is given in parts")
        return self

    def at(self, url: str | URL, *, name: str = "", **changes: Any) -> "DatabaseSettings":
        """Return the same settings for another database, whose URLs are these alone.

        Its name, in logs and metrics, is that of this one if none is given. `changes` are fields, by
        which it may also get a replica or a direct URL of its own.

        Raises:
            ConfigurationError: the URL or a field is wrong. Values are not shown.
        """
        if isinstance(url, URL):
            url = url.render_as_string(hide_password=False)
        kept = {field: getattr(self, field) for field in self.model_fields_set - ADDRESS}
        try:
            settings = DatabaseSettings(**kept | {"database_url": SecretStr(url)} | changes)
        except ValidationError as error:
            raise _refusal(error) from None
        settings._name = name or self._name
        return settings

    def model_copy(
        self, *, update: Mapping[str, Any] | None = None, deep: bool = False
    ) -> "DatabaseSettings":
        copied = super().model_copy(update=update, deep=deep)
        copied._urls = {}  # those of the original lead to the original
        return copied

    @property
    def name(self) -> str:
        return self._name

    @property
    def is_configured(self) -> bool:
        return self.database_url is not None or self.host is not None

    def url(self, *, dev: bool = False, read_only: bool = False) -> URL:
        """Return the resolved URL, the same object at every call.

        Raises:
            ConfigurationError: `dev` is asked for and there is no DEV_DATABASE_URL.
        """
        if dev:
            return self._resolved("dev_database_url")
        if read_only and self.read_database_url:
            return self._resolved("read_database_url")
        return self._resolved("database_url")

    def urls(self) -> set[URL]:
        """Return the URLs of all sessions."""
        dev = [self.url(dev=True)] if self.dev_database_url else []
        return {self.url(), self.url(read_only=True), *dev}

    def fallback_url(self, url: URL) -> URL | None:
        """Return what read-only sessions use while the replica at this URL does not answer."""
        if self.read_fallback and self.read_database_url and url is self.url(read_only=True):
            return self.url()
        return None

    def migration_url(self) -> URL:
        """Return the URL for DDL: a direct one where requests go through a pooler."""
        return self._resolved(
            "migration_database_url" if self.migration_database_url else "database_url"
        )

    def _resolved(self, field: str) -> URL:
        if field not in self._urls:
            self._urls[field] = resolve_async_url(self._configured(field))
        return self._urls[field]

    def _configured(self, field: str) -> str | URL:
        secret: SecretStr | None = getattr(self, field)
        if secret is not None:
            return secret.get_secret_value()
        if field == "database_url" and self.host is not None:
            password = self.password.get_secret_value() if self.password else None
            return URL.create(
                "postgresql", self.username, password, self.host, self.port, self.dbname
            )
        raise ConfigurationError(f"{variable(self._name, field)} is not set")


class Settings(BaseSettings):
    """What the service reads from the environment and from `.env`, in this order."""

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
    shutdown_delay: float = Field(1, ge=0, le=3600)
    shutdown_timeout: int = Field(20, ge=0, le=3600)
    database_url: DatabaseUrl | None = None
    dev_database_url: DatabaseUrl | None = None
    databases: dict[str, DatabaseSettings] = {}

    @property
    def logs_as(self) -> Literal["text", "json"]:
        return self.log_format or ("json" if self.environment == "production" else "text")

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
        """Let every database have a URL."""
        for name in {**dict.fromkeys(DATABASES), **self.databases}:
            settings = self.databases.get(name, DatabaseSettings())
            defaults: dict[str, SecretStr | None] = {}
            if name == DEFAULT_DATABASE:
                self._refuse_two_spellings(settings)
                defaults["dev_database_url"] = self.dev_database_url or settings.dev_database_url
            if not settings.is_configured:
                defaults["database_url"] = self._default_url(name)
            self.databases[name] = settings.model_copy(update=defaults)
            self.databases[name]._name = name
        return self

    def _refuse_two_spellings(self, settings: DatabaseSettings) -> None:
        """Refuse to guess which is meant, where both are set and say different things."""
        urls = {self.database_url, settings.database_url} - {None}
        if len(urls) > 1 or (self.database_url and settings.host):
            raise ValueError(f"set DATABASE_URL or {variable(DEFAULT_DATABASE)}, not both")
        if len({self.dev_database_url, settings.dev_database_url} - {None}) > 1:
            long = variable(DEFAULT_DATABASE, "dev_database_url")
            raise ValueError(f"set DEV_DATABASE_URL or {long}, not both")

    def _default_url(self, database: str) -> SecretStr:
        if database == DEFAULT_DATABASE and self.database_url:
            return self.database_url
        if self.environment == "production":
            raise ValueError(
                f"ENVIRONMENT=production needs a database URL: set {variable(database)}"
            )
        prefix = "test-" if self.environment == "test" else ""
        return SecretStr(f"sqlite:///var/{prefix}{database}.db")


def variable(database: str, field: str = "database_url") -> str:
    """Return the name of the environment variable of a database's setting."""
    return f"DATABASES__{database}__{field}".upper()


@lru_cache
def get_settings() -> Settings:
    """Return the settings, read on the first call; `get_settings.cache_clear()` reads them anew.

    Raises:
        ConfigurationError: a variable is missing or wrong. Values are not shown: one may be a
            secret.
    """
    return read(Settings)


def read(settings: type[AnySettings]) -> AnySettings:
    """Return the settings of this class.

    Raises:
        ConfigurationError: as `get_settings` does.
    """
    try:
        return settings()
    except ValidationError as error:
        raise _refusal(error) from None
    except SettingsError as error:
        raise ConfigurationError(str(error)) from None
    except UnicodeDecodeError:  # whose message shows what it could not read
        raise ConfigurationError("the .env file is not UTF-8: save it as such") from None


def get_database(name: str | None = None) -> DatabaseSettings:
    """Return the settings of a database, of the default one without a name.

    Raises:
        DatabaseNotFoundError: no database has this name.
    """
    databases = get_settings().databases
    if name is None:
        name = DEFAULT_DATABASE
    if name not in databases:
        known = ", ".join(sorted(databases))
        raise DatabaseNotFoundError(f"there is no database {name!r}; there are: {known}")
    return databases[name]


def _refusal(error: ValidationError) -> ConfigurationError:
    return ConfigurationError("; ".join(map(_sentence, error.errors())))


def _sentence(error: object) -> str:
    assert isinstance(error, dict)
    path = "__".join(str(part) for part in error["loc"]).upper()
    message = str(error["msg"]).removeprefix("Value error, ")
    if error["type"] == "extra_forbidden":
        message = "there is no such setting"
    return f"{path}: {message}" if path else message
