"""`resolve_async_url`: drivers, libpq parameters and refusals of database URLs."""

import pytest
from sqlalchemy import make_url

from app.core.database.url import resolve_async_url

RESOLVED = {
    "postgresql://u:p%40%25@h:6543/d": "postgresql+asyncpg://u:p%40%25@h:6543/d",
    "postgres://u:p@h/d": "postgresql+asyncpg://u:p@h/d",
    "sqlite:///var/x.db": "sqlite+aiosqlite:///var/x.db",
    "mysql+asyncmy://u:p@h/d": "mysql+asyncmy://u:p@h/d",  # a driver named in the URL is kept
    "postgresql://h/d?sslmode=require": "postgresql+asyncpg://h/d?ssl=require",
    "postgresql://h/d?connect_timeout=10": "postgresql+asyncpg://h/d?timeout=10",
}


@pytest.mark.parametrize(("url", "expected"), RESOLVED.items())
def test_url_is_resolved_and_resolving_it_again_changes_nothing(url: str, expected: str) -> None:
    assert make_url(expected) == resolve_async_url(url) == resolve_async_url(expected)


REFUSED = {
    "mysql://u:hidden@h/d": r"'mysql' is not supported: write postgresql://... or sqlite:///...",
    "postgresql://u:hid@den:x@h:port/d": r"not a database URL",
    "postgresql://u:hidden@h/d?sslmode=on": r"sslmode='on' is not known: write one of disable, ",
    "postgresql://h/d?password=hidden": r"the parameter 'password', which asyncpg cannot take",
}


@pytest.mark.parametrize(("url", "message"), REFUSED.items())
def test_refusal_names_the_mistake_and_hides_the_password(url: str, message: str) -> None:
    with pytest.raises(ValueError, match=message) as error:
        resolve_async_url(url)

    assert "hidden" not in str(error.value)
