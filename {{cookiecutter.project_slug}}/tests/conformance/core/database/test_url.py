"""`resolve_async_url`: every driver, libpq parameter and refusal of a database URL."""

import pytest
from sqlalchemy import URL, make_url

from app.core.database.libpq import typed_parameters
from app.core.database.url import resolve_async_url

RESOLVED = {
    "postgresql://u:p@h/d": "postgresql+asyncpg://u:p@h/d",
    "postgres://u:p@h/d": "postgresql+asyncpg://u:p@h/d",
    "postgresql://u:p%40%25@h:6543/d": "postgresql+asyncpg://u:p%40%25@h:6543/d",
    "sqlite://": "sqlite+aiosqlite://",
    "sqlite:///var/x.db": "sqlite+aiosqlite:///var/x.db",
    # A driver named in the URL is kept.
    "postgresql+asyncpg://u:p@h/d": "postgresql+asyncpg://u:p@h/d",
    "postgresql+psycopg://h/d?sslmode=require": "postgresql+psycopg://h/d?sslmode=require",
    "mysql+asyncmy://u:p@h/d": "mysql+asyncmy://u:p@h/d",
    "sqlite+aiosqlite:///x.db?cache=shared": "sqlite+aiosqlite:///x.db?cache=shared",
    # libpq parameters are translated to those of asyncpg.
    "postgresql://h/d?sslmode=require": "postgresql+asyncpg://h/d?ssl=require",
    "postgresql+asyncpg://h/d?sslmode=require": "postgresql+asyncpg://h/d?ssl=require",
    "postgresql://h/d?connect_timeout=10": "postgresql+asyncpg://h/d?timeout=10",
    "postgresql://h/d?connect_timeout=0": "postgresql+asyncpg://h/d",
    "postgresql://h/d?channel_binding=prefer": "postgresql+asyncpg://h/d",
    "postgresql://h/d?client_encoding=UTF-8": "postgresql+asyncpg://h/d",
    "postgresql://h/d?command_timeout=1.5": "postgresql+asyncpg://h/d?command_timeout=1.5",
    "postgresql://?host=a:1&host=b:2": "postgresql+asyncpg://?host=a:1&host=b:2",
}


@pytest.mark.parametrize(("url", "expected"), RESOLVED.items())
def test_url_is_resolved(url: str, expected: str) -> None:
    assert make_url(expected) == resolve_async_url(url)


@pytest.mark.parametrize("url", RESOLVED)
def test_resolving_twice_changes_nothing(url: str) -> None:
    once = resolve_async_url(url)

    assert once == resolve_async_url(once)


def test_parameters_that_asyncpg_reads_from_a_dsn_only_are_in_the_dsn() -> None:
    url = resolve_async_url(
        "postgresql://h/d?sslmode=verify-full&sslrootcert=/a b&application_name=me&options=-c%20x%3D1"
    )

    assert url.query == {
        "ssl": "verify-full",
        "dsn": "postgresql://?sslrootcert=%2Fa%20b&application_name=me&options=-c%20x%3D1",
    }


def test_special_characters_in_the_password_are_kept() -> None:
    url = URL.create("postgresql", "u", "p%40:/?#&ü", "h", 5432, "d")

    assert resolve_async_url(url).password == "p%40:/?#&ü"


REFUSED = {
    "mysql://u:hidden@h/d": r"'mysql' is not supported: write postgresql://... or sqlite:///...",
    "sqlite://var/x.db": r"a SQLite URL has three slashes: write sqlite:///path",
    "": r"not a database URL: write postgresql://user:password@host:5432/name",
    "hidden": r"not a database URL",
    "postgresql://u:hid@den:x@h:port/d": r"not a database URL",
    "postgresql://u:hidden@h/d?sslmode=on": r"sslmode='on' is not known: write one of disable, ",
    "postgresql://h/d?ssl=bogus": r"ssl='bogus' is not known: write one of disable, allow",
    "postgresql://h/d?target_session_attrs=x": r"target_session_attrs='x' is not known",
    "postgresql://h:99999/d": r"99999 is not a port: write a number from 1 to 65535",
    "postgresql://h/d?sslmode=require&ssl=disable": r"'ssl' and 'sslmode': write one of the two",
    "postgresql://h/d?sslmode=require&sslmode=disable": r"has the parameter 'sslmode' twice",
    "postgresql://h/d?channel_binding=require": r"channel_binding='require' is not supported",
    "postgresql://h/d?client_encoding=latin1": r"client_encoding='latin1' is not supported",
    "postgresql://h/d?connect_timeout=soon": r"connect_timeout='soon' .* is not a number",
    "postgresql://h/d?statement_cache_size=x": r"statement_cache_size='x' .* is not a number",
    "postgresql://h/d?statement_cache_size=-1": r"statement_cache_size='-1' .* is not a number",
    "postgresql://h/d?command_timeout=0": r"command_timeout='0' .* write command_timeout=10",
    "postgresql://h/d?sslnegotiation=x": r"sslnegotiation='x' is not known: write one of postgres",
    "postgresql://h/d?gsslib=x": r"gsslib='x' is not known: write one of gssapi, sspi",
    "postgresql://h/d?ssl_min_protocol_version=1": r"ssl_min_protocol_version='1' is not known",
    "postgresql://h/d?pgbouncer=true": r"'pgbouncer', .*: remove it and set DATABASES__<NAME>__PGB",
    "postgresql://h/d?connection_limit=1": r"remove it and set DATABASES__<NAME>__POOL_SIZE",
    "postgresql://h/d?schema=s": r"write options=-csearch_path%3Dname instead",
    "postgresql://h/d?keepalives=1": r"the parameter 'keepalives', which asyncpg cannot take",
    "postgresql://h/d?password=hidden": r"the parameter 'password', which asyncpg cannot take",
    "postgresql://h/d?dsn=x&application_name=y": r"'dsn' beside libpq parameters",
}


@pytest.mark.parametrize(("url", "message"), REFUSED.items())
def test_refusal_names_the_mistake_and_hides_the_password(url: str, message: str) -> None:
    with pytest.raises(ValueError, match=message) as error:
        resolve_async_url(url)

    assert "hidden" not in str(error.value)


def test_parameters_get_the_types_that_asyncpg_expects() -> None:
    url = resolve_async_url(
        "postgresql://h/d?connect_timeout=2&statement_cache_size=0&direct_tls=true&sslmode=require"
    )

    assert typed_parameters(url.query) == {
        "timeout": 2.0,
        "statement_cache_size": 0,
        "direct_tls": True,
        "ssl": "require",
    }
