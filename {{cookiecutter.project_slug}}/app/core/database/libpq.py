"""Query parameters of PostgreSQL URLs: translated from libpq to asyncpg, or refused by name.

libpq: https://www.postgresql.org/docs/current/libpq-connect.html#LIBPQ-PARAMKEYWORDS
asyncpg: https://magicstack.github.io/asyncpg/current/api/index.html#connection

The whole URL cannot be asyncpg's DSN: asyncpg sends each parameter that it does not know to the
server, which refuses the connection for a `connect_timeout`.
"""

import os
from collections.abc import Callable, Mapping
from configparser import ConfigParser
from configparser import Error as ConfigParserError
from pathlib import Path
from typing import Any
from urllib.parse import quote

from pydantic import NonNegativeInt, PositiveFloat, TypeAdapter
from sqlalchemy import URL

from app.core.database import tls

Query = Mapping[str, str | tuple[str, ...]]

SSL_MODES = ("disable", "allow", "prefer", "require", "verify-ca", "verify-full")
TLS_VERSIONS = ("TLSv1", "TLSv1.1", "TLSv1.2", "TLSv1.3")
SESSION_ATTRIBUTES = ("any", "primary", "standby", "read-write", "read-only", "prefer-standby")

CHOICES = {
    "direct_tls": ("true", "false"),
    "gsslib": ("gssapi", "sspi"),
    "ssl": SSL_MODES,
    "ssl_max_protocol_version": TLS_VERSIONS,
    "ssl_min_protocol_version": TLS_VERSIONS,
    "sslmode": SSL_MODES,
    "sslnegotiation": ("postgres", "direct"),
    "target_session_attrs": SESSION_ATTRIBUTES,
}

# Repeated for several servers, as SQLAlchemy documents it.
SERVERS = {"host", "port"}

# Parameters that asyncpg reads from a DSN only.
FROM_DSN = {
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

_seconds = TypeAdapter(PositiveFloat).validate_python
_not_negative = TypeAdapter(NonNegativeInt).validate_python

# Arguments of asyncpg.connect() and of SQLAlchemy's dialect, with their types.
TYPES: dict[str, Callable[[str], object]] = {
    "command_timeout": _seconds,
    "direct_tls": lambda value: value == "true",
    "dsn": str,
    "gsslib": str,
    "krbsrvname": str,
    "max_cacheable_statement_size": _not_negative,
    "max_cached_statement_lifetime": _not_negative,
    "passfile": str,
    "prepared_statement_cache_size": _not_negative,
    "ssl": str,
    "statement_cache_size": _not_negative,
    "target_session_attrs": str,
    "timeout": _seconds,
}

# Replacements of parameters of other clients, which hosted providers and other libraries write.
INSTEAD = {
    "connection_limit": "remove it and set DATABASES__<NAME>__POOL_SIZE",
    "keepalives_idle": "remove it and set DATABASES__<NAME>__TCP_KEEPALIVE",
    "pgbouncer": "remove it and set DATABASES__<NAME>__PGBOUNCER=true",
    "pool_timeout": "remove it and set DATABASES__<NAME>__POOL_TIMEOUT",
    "schema": "write options=-csearch_path%3Dname instead",
}


def with_service(url: URL) -> URL:
    """Return the URL with the parameters of its `service`, for those that it does not have itself.

    asyncpg connects to localhost if the service is missing, and ignores most of its parameters.
    https://www.postgresql.org/docs/current/libpq-pgservice.html

    Raises:
        ValueError: there is no such service, or the file cannot be read.
    """
    name = url.query.get("service")
    if name is None:
        return url
    path = os.path.expanduser(os.environ.get("PGSERVICEFILE") or "~/.pg_service.conf")
    file = ConfigParser(interpolation=None, delimiters="=", comment_prefixes="#", strict=False)
    try:
        file.read_string(Path(path).read_text("utf-8"))
        service = dict(file[str(name)])
    except (KeyError, FileNotFoundError):
        raise ValueError(
            f"service={name!r} is not in {path}: add it there, or set PGSERVICEFILE"
        ) from None
    except (ConfigParserError, OSError, UnicodeError):  # the message may show a password
        raise ValueError(
            f"service={name!r}: {path} cannot be read: each line is [name] or key=value, in UTF-8"
        ) from None
    user, password, database = (service.pop(key, None) for key in ("user", "password", "dbname"))
    url = url.set(
        username=url.username or user,
        password=url.password or password,
        database=url.database or database,
    )
    given = {"host": url.host, "port": url.port} | dict(url.query)
    service = {key: value for key, value in service.items() if not given.get(key)}
    url = url.difference_update_query(["service"])
    return url.update_query_dict(service | dict(url.query))


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
        elif value not in CHOICES.get(name, (value,)):
            known = ", ".join(CHOICES[name])
            raise ValueError(f"{name}={value!r} is not known: write one of {known}")
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
    if mode := tls.mode_of(translated):
        translated["ssl"] = mode
    return translated


def typed_parameters(query: Query) -> dict[str, Any]:
    """Return the parameters in TYPES from the query of a resolved URL, converted from strings."""
    typed = {name: convert(str(query[name])) for name, convert in TYPES.items() if name in query}
    if context := tls.context_with_system_cas(query):
        typed["ssl"] = context
    return typed


def _known(name: str, value: str) -> dict[str, str]:
    if name not in TYPES:
        raise ValueError(
            f"the database URL has the parameter {name!r}, which asyncpg cannot take from a URL: "
            f"{INSTEAD.get(name, 'remove it')}"
        )
    _number(name, value, TYPES[name])
    return {name: value}


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
    "sslmode": lambda _, value: {"ssl": value},
}


def _number(name: str, value: str, convert: Callable[[str], object]) -> None:
    try:
        convert(value)
    except ValueError:
        raise ValueError(
            f"{name}={value!r} in the database URL is not a number that asyncpg accepts: write "
            f"{name}=10"
        ) from None
