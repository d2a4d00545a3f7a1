"""Inserts a row into each table of a database, with values that suit the types of its columns."""

from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, date, datetime, time, timedelta
from decimal import Decimal
from typing import Any
from uuid import UUID
from warnings import catch_warnings

from sqlalchemy import CHAR, Column, Connection, Enum, MetaData
from sqlalchemy.exc import SAWarning

# Values for columns that refuse the values below. Example: {"users.country": "SE"}
VALUES: dict[str, Any] = {}

OF_TYPES: list[Any] = [True, b"1", 1, 1.0, Decimal(1), "1", UUID(int=1), [], {}]
OF_TYPES += [date(2000, 1, 1), datetime(2000, 1, 1, tzinfo=UTC), time(1), timedelta(1)]
OF_TYPE = {type(value): value for value in OF_TYPES} | {object: {}}  # object: JSON


def replace_rows(connection: Connection) -> list[str]:
    """Leave one row in each table, with as few NULLs as possible; return why a table has none."""
    problems: list[str] = []
    stored: dict[str, Any] = {}
    metadata = MetaData()
    with catch_warnings(action="ignore", category=SAWarning):  # of unknown types, of cycles
        metadata.reflect(connection)
        tables = [table for table in metadata.sorted_tables if table.name != "alembic_version"]
    for table in reversed(tables):
        with _recorded(problems, f"rows left in {table.name}"), connection.begin_nested():
            connection.execute(table.delete())
    for table in tables:
        with _recorded(problems, f"no row for {table.name}"), connection.begin_nested():
            values = {c.name: _value(c, stored) for c in table.c if not _is_generated(c)}
            row = connection.execute(table.insert().values(values).returning(*table.c)).one()
            stored |= {str(c): value for c, value in zip(table.c, row, strict=True)}
    connection.commit()
    return problems


@contextmanager
def _recorded(problems: list[str], what: str) -> Iterator[None]:
    try:
        yield
    except Exception as error:
        problems.append(f"{what}: {getattr(error, 'orig', error)!r}")


def _is_generated(column: Column[Any]) -> bool:
    return any((column.server_default, column.computed, column.identity))


def _value(column: Column[Any], stored: dict[str, Any]) -> Any:
    if str(column) in VALUES:
        return VALUES[str(column)]
    for key in column.foreign_keys:
        return stored.get(str(key.column))
    if isinstance(column.type, CHAR) and column.type.length == 32:
        return UUID(int=1).hex  # how SQLite stores a Uuid
    if isinstance(column.type, Enum):
        return column.type.enums[0]
    value = OF_TYPE[column.type.python_type]
    if isinstance(value, datetime) and not getattr(column.type, "timezone", False):
        return value.replace(tzinfo=None)
    return value
