"""Database URLs: drivers and parameters are translated to those of the async drivers, or refused."""

from sqlalchemy import URL, make_url
from sqlalchemy.exc import ArgumentError, NoSuchModuleError

from app.core.database.libpq import asyncpg_query, with_service
from app.core.database.tls import refuse_unusable_files

ASYNC_DRIVERS = {
    "postgres": "postgresql+asyncpg",
    "postgresql": "postgresql+asyncpg",
    "sqlite": "sqlite+aiosqlite",
}
PORTS = range(1, 65536)


def resolve_async_url(url: str | URL) -> URL:
    """Return the URL with an async driver and with the parameters of that driver.

    `postgres://` and `postgresql://` get asyncpg, `sqlite://` gets aiosqlite. A driver named in the
    URL is kept. For asyncpg, libpq's parameters (`sslmode`, `connect_timeout`, ...) are translated.

    Raises:
        ValueError: not a URL, or the database or a parameter is not supported. The message never
            contains the URL's password.
    """
    try:
        parsed = make_url(url)
    except (ArgumentError, ValueError):
        # The original error may quote the password.
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
    if parsed.port is not None and parsed.port not in PORTS:
        raise ValueError(f"{parsed.port} is not a port: write a number from 1 to 65535")
    if parsed.drivername == "postgresql+asyncpg":
        parsed = with_service(parsed)
        parsed = parsed.set(query=asyncpg_query(parsed.query))
    return parsed


def refuse_unusable(url: URL) -> None:
    """Raise `ValueError` if a resolved URL can never work.

    Its driver is not async or not installed, its hosts do not match its ports, or a file with a
    certificate cannot be loaded.
    """
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
    if url.drivername == "postgresql+asyncpg":
        refuse_unusable_files(url.query)
        try:
            dialect().create_connect_args(url)
        except (ArgumentError, ValueError) as error:
            raise ValueError(
                f"the hosts of the database URL are wrong ({error}): write host=a:5432&host=b:5432"
            ) from None
