"""Database URLs: from what people write to what an async engine takes."""

from collections.abc import Callable, MutableMapping
from typing import Any
from urllib.parse import quote

from sqlalchemy import URL, make_url
from sqlalchemy.exc import ArgumentError, NoSuchModuleError

ASYNC_DRIVERS = {
    "postgres": "postgresql+asyncpg",
    "postgresql": "postgresql+asyncpg",
    "sqlite": "sqlite+aiosqlite",
}

SSL_MODES = ("disable", "allow", "prefer", "require", "verify-ca", "verify-full")

# libpq's parameters that asyncpg reads from a DSN, and only from there.
# https://magicstack.github.io/asyncpg/current/api/index.html#connection
DSN_PARAMETERS = {
    "application_name",
    "options",
    "sslcert",
    "sslcrl",
    "sslkey",
    "ssl_max_protocol_version",
    "ssl_min_protocol_version",
    "sslnegotiation",
    "sslrootcert",
}

# What asyncpg.connect() and SQLAlchemy's dialect take by name, with the type they expect.
ASYNCPG_PARAMETERS: dict[str, Callable[[str], object]] = {
    "command_timeout": float,
    "direct_tls": lambda value: value.lower() in {"1", "on", "true", "yes"},
    "dsn": str,
    "gsslib": str,
    "host": str,
    "krbsrvname": str,
    "max_cacheable_statement_size": int,
    "max_cached_statement_lifetime": int,
    "passfile": str,
    "port": str,
    "prepared_statement_cache_size": int,
    "service": str,
    "ssl": str,
    "statement_cache_size": int,
    "target_session_attrs": str,
    "timeout": float,
}


def resolve_async_url(url: str | URL) -> URL:
    """Return the URL with an async driver, and with parameters that this driver knows.

    `postgres://` and `postgresql://` get asyncpg, `sqlite://` gets aiosqlite; a driver that is
    named is used as it is. libpq's parameters (`sslmode`, `connect_timeout`, ...) become asyncpg's.

    Raises:
        ValueError: not a URL, a database that is not supported, a parameter that asyncpg cannot
            honour. The message never contains the URL's password.
    """
    try:
        parsed = make_url(url)
    except (ArgumentError, ValueError):
        # The error may quote a part of the URL, and that part may be the password.
        raise ValueError(
            "not a database URL: write postgresql://user:password@host:5432/name or "
            "sqlite:///path/to/file.db, with special characters percent-encoded"
        ) from None
    if "+" not in parsed.drivername:
        if parsed.drivername not in ASYNC_DRIVERS:
            raise ValueError(
                f"the database {parsed.drivername!r} is not supported: write postgresql://... "
                "or sqlite:///..., or name an async driver, as in mysql+asyncmy://..."
            )
        parsed = parsed.set(drivername=ASYNC_DRIVERS[parsed.drivername])
    if parsed.get_backend_name() == "sqlite" and parsed.host:
        raise ValueError("a SQLite URL has three slashes: write sqlite:///path/to/file.db")
    if parsed.get_driver_name() == "asyncpg":
        parsed = parsed.set(query=_asyncpg_query(parsed))
    return parsed


def refuse_unusable_driver(url: URL) -> None:
    """Raise `ValueError` where the driver of a resolved URL is not async or not installed."""
    try:
        dialect = url.get_dialect().get_async_dialect_cls(url)
        dialect.import_dbapi()
    except (NoSuchModuleError, ImportError):
        raise ValueError(
            f"the driver of {url.drivername!r} is not installed: write postgresql://... or "
            "sqlite:///..., or install it"
        ) from None
    if not dialect.is_async:
        raise ValueError(
            f"the driver of {url.drivername!r} is not async: write {url.get_backend_name()}://..."
        )


def typed_parameters(parameters: MutableMapping[str, Any]) -> None:
    """Give the parameters of a URL, which are strings, the types that asyncpg expects."""
    for name, convert in ASYNCPG_PARAMETERS.items():
        value = parameters.get(name)
        if isinstance(value, str):
            parameters[name] = convert(value)


def _asyncpg_query(url: URL) -> dict[str, str | tuple[str, ...]]:
    query: dict[str, str | tuple[str, ...]] = {}
    dsn: list[str] = []
    for name, value in url.query.items():
        if name in {"host", "port"}:  # repeated for several servers, as SQLAlchemy documents it
            query[name] = value
        elif not isinstance(value, str):
            raise ValueError(f"the database URL has the parameter {name!r} twice: write it once")
        elif name in DSN_PARAMETERS:
            dsn.append(f"{name}={quote(value, safe='')}")
        elif name == "sslmode":
            query["ssl"] = _ssl_mode(value, url)
        elif name == "connect_timeout":
            query |= _connect_timeout(value)
        elif name == "channel_binding":
            _refuse_channel_binding(value)
        elif name == "client_encoding":
            _refuse_encoding(value)
        elif name in ASYNCPG_PARAMETERS:
            query[name] = _checked(name, value)
        else:
            raise ValueError(
                f"the database URL has the parameter {name!r}, which asyncpg cannot take from a "
                "URL: remove it"
            )
    if dsn and "dsn" in query:
        raise ValueError("the database URL has 'dsn' beside libpq parameters: write one of the two")
    if dsn:
        query["dsn"] = "postgresql://?" + "&".join(dsn)
    return query


def _ssl_mode(value: str, url: URL) -> str:
    if "ssl" in url.query:
        raise ValueError("the database URL has 'ssl' and 'sslmode': write one of the two")
    if value not in SSL_MODES:
        raise ValueError(f"sslmode={value!r} is not known: write one of {', '.join(SSL_MODES)}")
    return value


def _connect_timeout(value: str) -> dict[str, str]:
    """Return asyncpg's `timeout` in seconds; zero and below mean to libpq: wait for ever."""
    seconds = _checked("connect_timeout", value, convert=int)
    return {"timeout": seconds} if int(seconds) > 0 else {}


def _refuse_channel_binding(value: str) -> None:
    if value not in {"disable", "prefer"}:
        raise ValueError(
            f"channel_binding={value!r} cannot be kept: asyncpg has no channel binding. Remove it "
            "and write sslmode=verify-full, which authenticates the server by its certificate"
        )


def _refuse_encoding(value: str) -> None:
    if value.lower().replace("-", "").replace("_", "") != "utf8":
        raise ValueError(f"client_encoding={value!r} cannot be kept: asyncpg always speaks UTF-8")


def _checked(name: str, value: str, convert: Callable[[str], object] | None = None) -> str:
    try:
        (convert or ASYNCPG_PARAMETERS[name])(value)
    except ValueError:
        raise ValueError(
            f"{name}={value!r} in the database URL is not a number: write {name}=10"
        ) from None
    return value
