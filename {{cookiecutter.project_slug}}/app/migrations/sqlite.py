"""Copies of tables: how `batch_alter_table` changes a table on SQLite."""

import re
from collections.abc import Sequence

from alembic.ddl.sqlite import SQLiteImpl
from alembic.operations.batch import ApplyBatchImpl, BatchOperationsImpl
from sqlalchemy import Connection, Table, literal_column, text

PART = re.compile(r"""'(?:[^']|'')*'|"(?:[^"]|"")*"|.""", re.DOTALL)


class CompleteCopies(SQLiteImpl):
    """Used instead of Alembic's class, because it has the same `__dialect__`.

    Alembic loses triggers and the indexes that are not reflected, those on an expression, with the
    old table. It copies the values of generated columns, which SQLite refuses.
    """

    __dialect__ = "sqlite"

    lost: Sequence[str] = ()  # the statements that create them

    def requires_recreate_in_batch(self, batch_op: BatchOperationsImpl) -> bool:
        if not super().requires_recreate_in_batch(batch_op):
            return False
        for operation in [*batch_op.batch]:
            if operation[0] == "drop_index":  # Alembic finds reflected indexes only
                self.drop_index(*operation[1], **operation[2])
                batch_op.batch.remove(operation)
        return True

    def prep_table_for_batch(self, batch_impl: ApplyBatchImpl, table: Table) -> None:
        assert self.connection is not None
        for name, column in batch_impl.columns.items():
            if column.computed is None:
                continue
            if batch_impl.column_transfers[name].pop("expr", None) is not None:
                expression = generated_expression(self.connection, table.name, name)
                column.computed.sqltext = literal_column(expression)
        reflected = {index.name for index in table.indexes}
        rows = self.connection.execute(
            text("SELECT name, sql FROM sqlite_master WHERE tbl_name = :table AND type <> 'table'"),
            {"table": table.name},
        )
        self.lost = [sql for name, sql in rows if sql and name not in reflected]

    def rename_table(
        self, old_table_name: str, new_table_name: str, schema: str | None = None
    ) -> None:
        super().rename_table(old_table_name, new_table_name, schema)
        lost, self.lost = self.lost, ()
        for statement in lost:
            assert self.connection is not None
            self.connection.exec_driver_sql(statement)


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
