"""What PostgreSQL needs, through asyncpg: limits on the server's side, and no stale connection."""

import selectors
from time import monotonic
from typing import Any
from uuid import uuid4

from sqlalchemy import Engine, event
from sqlalchemy.engine import Dialect
from sqlalchemy.exc import InvalidatePoolError
from sqlalchemy.pool import ConnectionPoolEntry

from app.core.config import DatabaseSettings
from app.core.urls import typed_parameters

IDLE_BEFORE_PING = 1.0  # seconds

# Neither needs a descriptor of its own, as epoll does. Windows has no poll.
Selector = getattr(selectors, "PollSelector", selectors.SelectSelector)


def connect_args(settings: DatabaseSettings, *, read_only: bool) -> dict[str, Any]:
    """Return what asyncpg is to be called with beside the URL."""
    if settings.pgbouncer:
        # A pooler hands each transaction another server connection: nothing that is prepared or
        # set on one can be relied on in the next.
        return {
            "statement_cache_size": 0,
            "prepared_statement_cache_size": 0,
            "prepared_statement_name_func": lambda: f"__asyncpg_{uuid4()}__",
        }
    timeouts = {
        "statement_timeout": settings.statement_timeout,
        "lock_timeout": settings.lock_timeout,
        "idle_in_transaction_session_timeout": settings.idle_in_transaction_timeout,
    }
    server = {name: str(round(seconds * 1000)) for name, seconds in timeouts.items()}
    if read_only:
        server["default_transaction_read_only"] = "on"
    return {"server_settings": server}


def add_listeners(engine: Engine, *, read_only: bool) -> None:
    event.listen(engine, "do_connect", _connect)
    event.listen(engine, "checkin", _note_idle_since)
    event.listen(engine, "checkout", _refuse_stale)


def _connect(
    dialect: Dialect, _: ConnectionPoolEntry, args: list[Any], parameters: dict[str, Any]
) -> Any:
    """Connect, and let whatever keeps us from it be an `OperationalError`.

    asyncpg raises a bare `OSError` where nobody listens, and SQLAlchemy 2.1 makes a wrong password
    and a missing database a plain `DBAPIError`.
    """
    typed_parameters(parameters)
    dbapi: Any = dialect.loaded_dbapi
    try:
        return dialect.connect(*args, **parameters)
    except dbapi.InterfaceError:  # a parameter that makes no sense is nobody's outage
        raise
    except (dbapi.Error, OSError) as error:
        raise dbapi.OperationalError(str(error) or type(error).__name__, error) from error


def _note_idle_since(connection: Any, record: ConnectionPoolEntry) -> None:
    record.info["idle_since"] = monotonic()


def _refuse_stale(connection: Any, record: ConnectionPoolEntry, _: object) -> None:
    """Replace a connection that the server has closed before a request meets it.

    asyncpg knows when its peer has closed, once the event loop has had the time to tell it. A
    network that drops packets tells nobody. So a connection is asked where something unread lies on
    its socket, which may be that news, or where it was idle for long enough to be dropped.
    """
    driver = connection.driver_connection
    if driver.is_closed():
        raise InvalidatePoolError
    idle_since = record.info.get("idle_since")
    if idle_since is None:  # it is new
        return
    if monotonic() - idle_since < IDLE_BEFORE_PING and not _has_unread_input(driver):
        return
    try:
        connection.ping()
    except (connection.dbapi.Error, OSError) as error:
        raise InvalidatePoolError from error


def _has_unread_input(driver: Any) -> bool:
    selector = Selector()
    selector.register(driver._transport.get_extra_info("socket"), selectors.EVENT_READ)
    return bool(selector.select(timeout=0))
