"""Query parameters of PostgreSQL URLs: translated from libpq to asyncpg, or refused by name.

libpq: https://www.postgresql.org/docs/current/libpq-connect.html#LIBPQ-PARAMKEYWORDS
asyncpg: https://magicstack.github.io/asyncpg/current/api/index.html#connection

The whole URL cannot be asyncpg's DSN: asyncpg sends each parameter that it does not know to the
server, which refuses the connection for a `connect_timeout`.
"""

from collections.abc import Callable, Mapping
from typing import Any
from urllib.parse import quote

Query = Mapping[str, str | tuple[str, ...]]

SSL_MODES = ("disable", "allow", "prefer", "require", "verify-ca", "verify-full")
SESSION_ATTRIBUTES = ("any", "primary", "standby", "read-write", "read-only", "prefer-standby")

# Repeated for several servers, as SQLAlchemy documents it.
SERVERS = {"host", "port"}

# Parameters that asyncpg reads from a DSN only. `service` is also an argument of asyncpg.connect(),
# which asyncpg 0.32 ignores without a DSN.
FROM_DSN = {
    "application_name",
    "options",
    "service",
    "sslcert",
    "sslcrl",
    "sslkey",
    "ssl_max_protocol_version",
    "ssl_min_protocol_version",
    "sslnegotiation",
    "sslrootcert",
}

# Arguments of asyncpg.connect() and of SQLAlchemy's dialect, with their types.
TYPES: dict[str, Callable[[str], object]] = {
    "command_timeout": float,
    "direct_tls": lambda value: value.lower() in {"1", "on", "true", "yes"},
    "dsn": str,
    "gsslib": str,
    "krbsrvname": str,
    "max_cacheable_statement_size": int,
    "max_cached_statement_lifetime": int,
    "passfile": str,
    "prepared_statement_cache_size": int,
    "statement_cache_size": int,
    "timeout": float,
}


def asyncpg_query(query: Query) -> dict[str, str | tuple[str, ...]]:
    """Return the query parameters of a URL under the names that asyncpg expects.

    Raises:
        ValueError: asyncpg does not support a parameter or its value; the message names it.
    """
    if {"ssl", "sslmode"} <= query.keys():
        raise ValueError("the database URL has 'ssl' and 'sslmode': write one of the two")
    translated: dict[str, str | tuple[str, ...]] = {}
    dsn = []
    for name, value in query.items():
        if name in SERVERS:
            translated[name] = value
        elif not isinstance(value, str):
            raise ValueError(f"the database URL has the parameter {name!r} twice: write it once")
        elif name in FROM_DSN:
            dsn.append(f"{name}={quote(value, safe='')}")
        elif name in TRANSLATIONS:
            translated |= TRANSLATIONS[name](name, value)
        else:
            translated |= _known(name, value)
    if dsn and "dsn" in translated:
        raise ValueError("the database URL has 'dsn' beside libpq parameters: write one of the two")
    if dsn:
        translated["dsn"] = "postgresql://?" + "&".join(dsn)
    return translated


def typed_parameters(query: Query) -> dict[str, Any]:
    """Return the parameters in TYPES from the query of a resolved URL, converted from strings."""
    return {name: convert(str(query[name])) for name, convert in TYPES.items() if name in query}


def _known(name: str, value: str) -> dict[str, str]:
    if name not in TYPES:
        raise ValueError(
            f"the database URL has the parameter {name!r}, which asyncpg cannot take from a URL: "
            "remove it"
        )
    _number(name, value, TYPES[name])
    return {name: value}


def _ssl_mode(name: str, value: str) -> dict[str, str]:
    return {"ssl": _one_of(name, value, SSL_MODES)}


def _session_attributes(name: str, value: str) -> dict[str, str]:
    return {name: _one_of(name, value, SESSION_ATTRIBUTES)}


def _connect_timeout(name: str, value: str) -> dict[str, str]:
    """Return asyncpg's `timeout`, in seconds. In libpq, zero and negative values mean no timeout."""
    _number(name, value, int)
    return {"timeout": value} if int(value) > 0 else {}


def _channel_binding(name: str, value: str) -> dict[str, str]:
    if value not in {"disable", "prefer"}:
        raise ValueError(
            f"{name}={value!r} is not supported: asyncpg has no channel binding. Remove it and "
            "write sslmode=verify-full, which authenticates the server by its certificate"
        )
    return {}


def _client_encoding(name: str, value: str) -> dict[str, str]:
    if value.lower().replace("-", "").replace("_", "") != "utf8":
        raise ValueError(f"{name}={value!r} is not supported: asyncpg always uses UTF-8; remove it")
    return {}


TRANSLATIONS: dict[str, Callable[[str, str], dict[str, str]]] = {
    "channel_binding": _channel_binding,
    "client_encoding": _client_encoding,
    "connect_timeout": _connect_timeout,
    "ssl": _ssl_mode,
    "sslmode": _ssl_mode,
    "target_session_attrs": _session_attributes,
}


def _one_of(name: str, value: str, known: tuple[str, ...]) -> str:
    if value not in known:
        raise ValueError(f"{name}={value!r} is not known: write one of {', '.join(known)}")
    return value


def _number(name: str, value: str, convert: Callable[[str], object]) -> None:
    try:
        convert(value)
    except ValueError:
        raise ValueError(
            f"{name}={value!r} in the database URL is not a number: write {name}=10"
        ) from None
