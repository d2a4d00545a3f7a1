"""Settings of one database: `DATABASES__<NAME>__<FIELD>`."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Annotated, Any, TypeVar

from pydantic import (
    AfterValidator,
    BaseModel,
    ConfigDict,
    Field,
    PrivateAttr,
    SecretStr,
    ValidationError,
    model_validator,
)
from sqlalchemy import URL

from app import NAME
from app.core.database.errors import ConfigurationError
from app.core.database.url import refuse_unusable, resolve_async_url

# The fields that name a database and its credentials.
ADDRESS = {
    *("database_url", "dev_database_url", "read_database_url", "migration_database_url"),
    *("host", "port", "username", "password", "dbname"),
}

DEFAULT_PORT = 5432

Text = TypeVar("Text", str, SecretStr)

Seconds = Annotated[float, Field(ge=0, le=2_000_000)]  # PostgreSQL stores milliseconds in 32 bits


@dataclass(frozen=True, slots=True)
class EngineKey:
    """Identifies an engine within an event loop. Its hash is computed once.

    It contains SQLAlchemy's URL object: its equality includes the password, its repr hides it.
    """

    url: URL
    read_only: bool = False
    probe: bool = False
    fallback: URL | None = None  # READ_FALLBACK
    _hash: int = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        use = (self.url, self.read_only, self.probe, self.fallback)
        object.__setattr__(self, "_hash", hash(use))

    def __hash__(self) -> int:
        return self._hash

    def __reduce__(self) -> tuple[Any, ...]:  # another process hashes strings differently
        return EngineKey, (self.url, self.read_only, self.probe, self.fallback)


def _is_trimmed(value: Text) -> Text:
    text = value.get_secret_value() if isinstance(value, SecretStr) else value
    if text != text.strip():
        raise ValueError(
            "the value starts or ends with white space, often the newline of `echo`: remove it, or "
            "percent-encode it in the URL"
        )
    return value


def _is_usable(url: SecretStr) -> SecretStr:
    refuse_unusable(resolve_async_url(url.get_secret_value()))
    return url


DatabaseUrl = Annotated[SecretStr, AfterValidator(_is_trimmed), AfterValidator(_is_usable)]
Trimmed = Annotated[str, AfterValidator(_is_trimmed)]


class DatabaseSettings(BaseModel):
    """One database: `DATABASES__<NAME>__<FIELD>`. Times are in seconds."""

    model_config = ConfigDict(extra="forbid", frozen=True, hide_input_in_errors=True)

    database_url: DatabaseUrl | None = None
    dev_database_url: DatabaseUrl | None = None
    read_database_url: DatabaseUrl | None = None
    read_fallback: bool = False
    migration_database_url: DatabaseUrl | None = None

    host: Trimmed | None = None
    port: int = Field(DEFAULT_PORT, ge=1, le=65535)
    username: Trimmed | None = None
    password: Annotated[SecretStr, AfterValidator(_is_trimmed)] | None = None
    dbname: Trimmed | None = None

    pool_size: int = Field(20, ge=1)
    max_overflow: int = Field(0, ge=0)
    pool_timeout: Seconds = 5
    pool_recycle: Seconds = 1800
    connect_timeout: float = Field(5, gt=0, le=2_000_000)
    tcp_keepalive: float = Field(30, ge=0, le=32_767)  # the maximum of TCP_KEEPIDLE on Linux
    statement_timeout: Seconds = 30
    commit_timeout: Seconds = 30
    lock_timeout: Seconds = 10
    idle_in_transaction_timeout: Seconds = 60
    migration_lock_timeout: Seconds = 300
    application_name: str = Field(NAME, max_length=63)
    pgbouncer: bool = False

    _name: str = PrivateAttr("")

    @model_validator(mode="after")
    def _url_or_parts(self) -> "DatabaseSettings":
        parts = {"host", "username", "password", "dbname"} & self.model_fields_set
        if self.port != DEFAULT_PORT:
            parts.add("port")
        if parts and self.database_url:
            raise ValueError(f"set DATABASE_URL or {'/'.join(sorted(parts)).upper()}, not both")
        if parts and not (self.host and self.dbname):
            raise ValueError("HOST and DBNAME are both needed where the URL is given in parts")
        return self

    def for_url(self, url: str | URL, *, name: str = "", **changes: Any) -> "DatabaseSettings":
        """Return the same settings for another database, without dev, read or migration URL.

        Args:
            url: as in DATABASE_URL.
            name: its name in logs and metrics. Default: the name of these settings.
            changes: other fields, for example `pool_size=2` or `read_database_url="..."`.

        Raises:
            ConfigurationError: the URL or a field is wrong. The message shows no values.
        """
        if isinstance(url, URL):
            url = url.render_as_string(hide_password=False)
        kept = {name: getattr(self, name) for name in self.model_fields_set - ADDRESS}
        try:
            settings = DatabaseSettings(**kept | {"database_url": SecretStr(url)} | changes)
        except ValidationError as error:
            raise refusal(error) from None
        settings._name = name or self._name
        return settings

    def model_copy(
        self, *, update: Mapping[str, Any] | None = None, deep: bool = False
    ) -> "DatabaseSettings":
        copied = super().model_copy(update=update, deep=deep)
        # pydantic copies the caches, which belong to the original.
        for cached in ("_urls", "_keys"):
            vars(copied).pop(cached, None)
        return copied

    @property
    def name(self) -> str:
        return self._name

    @property
    def is_configured(self) -> bool:
        return self.database_url is not None or self.host is not None

    def key(self, *, dev: bool = False, read_only: bool = False, probe: bool = False) -> EngineKey:
        """Return the key of the engine for these sessions, the same object at every call.

        Raises:
            ConfigurationError: this URL is not set.
        """
        use = (dev, read_only, probe)
        if use not in self._keys:
            url = self.url(dev=dev, read_only=read_only)
            fallback = self.fallback_url(url) if read_only else None
            self._keys[use] = EngineKey(url, read_only, probe, fallback)
        return self._keys[use]

    def url(self, *, dev: bool = False, read_only: bool = False) -> URL:
        """Return the resolved URL, the same object at every call.

        Raises:
            ConfigurationError: this URL is not set.
        """
        if dev:
            return self._resolved("dev_database_url")
        if read_only and self.read_database_url:
            return self._resolved("read_database_url")
        return self._resolved("database_url")

    def urls(self) -> set[URL]:
        """Return the URLs that sessions use; migrations may use another one."""
        dev = [self.url(dev=True)] if self.dev_database_url else []
        return {self.url(), self.url(read_only=True), *dev}

    def fallback_url(self, url: URL) -> URL | None:
        """Return the URL that read-only sessions use while the replica at `url` is unavailable."""
        if self.read_fallback and self.read_database_url and url == self.url(read_only=True):
            return self.url()
        return None

    def migration_url(self) -> URL:
        """Return the URL for DDL. It may bypass a pooler."""
        return self._resolved(
            "migration_database_url" if self.migration_database_url else "database_url"
        )

    def engine_options_unlike(self, other: "DatabaseSettings") -> set[str]:
        """Return the fields that change an engine and whose values differ."""
        return {name for name in ENGINE_OPTIONS if getattr(self, name) != getattr(other, name)}

    # Cached properties, because `==` ignores them and compares private attributes.

    @cached_property
    def _keys(self) -> dict[tuple[bool, bool, bool], EngineKey]:
        return {}

    @cached_property
    def _urls(self) -> dict[str, URL]:
        return {}

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


# The fields that change an engine but not its key.
ENGINE_OPTIONS = (
    DatabaseSettings.model_fields.keys() - ADDRESS - {"migration_lock_timeout", "read_fallback"}
)


def variable(database: str, field: str = "database_url") -> str:
    """Return the name of the environment variable of a database's setting."""
    return f"DATABASES__{database}__{field}".upper()


def refusal(error: ValidationError) -> ConfigurationError:
    """Return one sentence for each wrong setting, without values: one may be a secret."""
    return ConfigurationError("; ".join(map(_sentence, error.errors())))


def _sentence(error: object) -> str:
    assert isinstance(error, dict)
    path = "__".join(str(part) for part in error["loc"]).upper()
    message = str(error["msg"]).removeprefix("Value error, ")
    if error["type"] == "extra_forbidden":
        message = "there is no such setting"
    return f"{path}: {message}" if path else message
