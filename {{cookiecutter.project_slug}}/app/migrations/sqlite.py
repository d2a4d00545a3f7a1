"""Copies of tables: how `batch_alter_table` changes a table on SQLite."""

import re
from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import Any

from alembic.ddl.sqlite import SQLiteImpl
from alembic.operations.batch import ApplyBatchImpl, BatchOperationsImpl
from sqlalchemy import Connection, Index, Table, literal_column, text

NOT_REFLECTED = re.compile(r"\b(collate|desc)\b", re.IGNORECASE)
PART = re.compile(r"""'(?:[^']|'')*'|"(?:[^"]|"")*"|.""", re.DOTALL)


class CompleteCopies(SQLiteImpl):
    """Keeps what Alembic loses: generated columns, triggers, indexes that are not reflected in full.

    It has the `__dialect__` of Alembic's class, so it is used instead.
    """

    __dialect__ = "sqlite"
    connection: Connection
    lost: Mapping[str, str] = MappingProxyType({})
    restored: frozenset[str] = frozenset()
    new: Sequence[tuple[Any, Any]] = ()  # indexes; a copy creates none on an expression

    def requires_recreate_in_batch(self, batch_op: BatchOperationsImpl) -> bool:
        if not super().requires_recreate_in_batch(batch_op):
            return False
        for operation in [*batch_op.batch]:
            kind, args, options = operation
            if kind == "create_index":
                self.new = [*self.new, (args, options)]
            elif kind == "drop_index" and batch_op.copy_from is None:
                self.drop_index(*args, **options)
            else:
                continue
            batch_op.batch.remove(operation)
        return True

    def prep_table_for_batch(self, batch_impl: ApplyBatchImpl, table: Table) -> None:
        for name, column in batch_impl.columns.items():
            # SQLite refuses to insert the values of a generated column.
            if (
                column.computed is not None
                and batch_impl.column_transfers[name].pop("expr", None) is not None
                and batch_impl.reflected
            ):
                expression = generated_expression(self.connection, table.name, name)
                column.computed.sqltext = literal_column(expression)
        if not batch_impl.reflected:  # the revision names everything that the copy keeps
            return
        statement = (
            "SELECT name, sql FROM sqlite_master "
            "WHERE tbl_name = :table COLLATE NOCASE AND type <> 'table' AND sql <> ''"
        )
        names = {index.name for index in table.indexes}
        self.lost = {
            name: sql
            for name, sql in self.connection.execute(text(statement), {"table": table.name})
            if name not in names
            or (NOT_REFLECTED.search(sql) and batch_impl.indexes.pop(name, None) is not None)
        }
        self.restored |= {*self.lost}

    def rename_table(
        self, old_table_name: str, new_table_name: str, schema: str | None = None
    ) -> None:
        super().rename_table(old_table_name, new_table_name, schema)
        for statement in self.lost.values():
            self.connection.exec_driver_sql(statement)
        if self.lost:  # SQLite checks the columns of triggers when it renames a table
            with self.connection.begin_nested() as savepoint:
                super().rename_table(new_table_name, old_table_name, schema)
                savepoint.rollback()
        added, self.lost, self.new = self.new, {}, ()
        for args, options in added:
            self.create_index(*args, **options)

    def create_index(self, index: Index, **options: Any) -> None:
        if index.name in self.restored:  # a revision may create it again, as Alembic would need
            self.drop_index(index, if_exists=True)
        super().create_index(index, **options)


def generated_expression(connection: Connection, table: str, name: str) -> str:
    """Return the expression of a column. Reflection may return that of another column, or of two."""
    statement = text(
        "SELECT sql FROM sqlite_master WHERE type = 'table' AND name = :table COLLATE NOCASE"
    )
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
