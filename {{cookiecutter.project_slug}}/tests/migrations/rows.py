"""Inserts a row into each table of a database, with values that suit the types of its columns."""

import re
import warnings
from datetime import UTC, date, datetime, time, timedelta
from decimal import Decimal
from typing import Any
from uuid import UUID

from sqlalchemy import CHAR, CheckConstraint, Column, Connection, Enum, MetaData
from sqlalchemy.exc import SAWarning
from sqlalchemy.schema import sort_tables_and_constraints

# For columns that refuse the values below: {"users.email": "ada@example.com"}, for example.
VALUES: dict[str, Any] = {}

NUMBERS: list[Any] = [True, b"1", 1, 1.0, Decimal(1), UUID(int=1), [], {}]
TIMES = [date(2000, 1, 1), datetime(2000, 1, 1, tzinfo=UTC), time(1), timedelta(1)]
OF_TYPE = {type(value): value for value in NUMBERS + TIMES}
FIRST_OF_LIST = re.compile(r"\b(?:IN|ANY)\b[^']*'([^']+)'")  # of the strings that a CHECK lists


def replace_rows(connection: Connection) -> list[str]:
    """Leave one row in each table, with as few NULLs as possible; return why a table has none."""
    problems = []
    stored: dict[str, Any] = {}
    with warnings.catch_warnings(action="ignore", category=SAWarning):  # of types it does not know
        metadata = MetaData()
        metadata.reflect(connection)
        # If tables refer to each other, the one whose foreign key may be NULL comes first.
        order = sort_tables_and_constraints(
            [table for table in metadata.tables.values() if table.name != "alembic_version"],
            lambda key: None if all(column.nullable for column in key.columns) else False,
        )
        tables = [table for table, _ in order if table is not None]
        for table in reversed(tables):
            connection.execute(table.delete())
        for table in tables:
            try:
                values = {c.name: _value(c, stored) for c in table.c if not _is_generated(c)}
                with connection.begin_nested():
                    insert = table.insert().values(values).returning(*table.c)
                    row = connection.execute(insert).one()
            except Exception as error:
                problems.append(f"no row for {table.name}: {getattr(error, 'orig', error)}")
            else:
                stored |= {str(c): value for c, value in zip(table.c, row, strict=True)}
    connection.commit()
    return problems


def _is_generated(column: Column[Any]) -> bool:
    return any((column.server_default, column.computed, column.identity))


def _value(column: Column[Any], stored: dict[str, Any]) -> Any:
    if str(column) in VALUES:
        return VALUES[str(column)]
    for key in column.foreign_keys:
        if column.nullable or str(key.column) in stored:
            return stored.get(str(key.column))
    if isinstance(column.type, Enum):
        return column.type.enums[0]
    if column.type.python_type is str:
        return _string(column)
    value = OF_TYPE[column.type.python_type]
    if isinstance(value, datetime) and not getattr(column.type, "timezone", False):
        return value.replace(tzinfo=None)
    return value


def _string(column: Column[Any]) -> str:
    """Return a value that a CHECK lists, or digits, which other types can be converted from."""
    for check in column.table.constraints:
        text = str(check.sqltext) if isinstance(check, CheckConstraint) else ""
        if column.name in text and (found := FIRST_OF_LIST.search(text)):
            return found[1]
    length = getattr(column.type, "length", None) or 8
    return "1" * (length if isinstance(column.type, CHAR) else min(length, 8))
