"""Copies of tables with generated columns: how `batch_alter_table` changes them on SQLite."""

import re

from alembic.ddl.sqlite import SQLiteImpl
from alembic.operations.batch import ApplyBatchImpl
from sqlalchemy import Connection, Table, literal_column, text

PART = re.compile(r"""'(?:[^']|'')*'|"(?:[^"]|"")*"|.""", re.DOTALL)


class CopyWithGeneratedColumns(SQLiteImpl):
    """Used instead of Alembic's class, because it has the same `__dialect__`."""

    __dialect__ = "sqlite"

    def prep_table_for_batch(self, batch_impl: ApplyBatchImpl, table: Table) -> None:
        for name, column in batch_impl.columns.items():
            if column.computed is None or self.connection is None:
                continue
            # SQLite refuses to insert the values, which Alembic would copy.
            if batch_impl.column_transfers[name].pop("expr", None) is not None:
                expression = generated_expression(self.connection, table.name, name)
                column.computed.sqltext = literal_column(expression)


def generated_expression(connection: Connection, table: str, name: str) -> str:
    """Return the expression of a column. Reflection may return that of another column, or of two."""
    statement = text("SELECT sql FROM sqlite_master WHERE type = 'table' AND name = :table")
    sql = str(connection.scalar(statement, {"table": table}))
    depth = 0
    masked = ""  # everything inside of a definition's parentheses, and quoted text, is "_"
    for part in PART.findall(sql):
        depth -= part == ")"
        masked += "_" * len(part) if depth > 1 or part[0] == "'" else part
        depth += part == "("
    column = rf'[(,]\s*"?{re.escape(name)}"?\s[^,]*?\bAS\s*\((_*)\)'
    match = re.search(column, masked, re.IGNORECASE)
    return sql[match.start(1) : match.end(1)] if match else ""
