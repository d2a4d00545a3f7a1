"""Copies of tables: how `batch_alter_table` changes a table on SQLite."""

import re
from collections.abc import Sequence

from alembic.ddl.sqlite import SQLiteImpl
from alembic.operations.batch import ApplyBatchImpl, BatchOperationsImpl
from sqlalchemy import Connection, Table, literal_column, text

PART = re.compile(r"""'(?:[^']|'')*'|"(?:[^"]|"")*"|.""", re.DOTALL)


class CompleteCopies(SQLiteImpl):
    """Keeps what Alembic loses: generated columns, triggers, indexes that are not reflected.

    It has the `__dialect__` of Alembic's class, so it is used instead.
    """

    __dialect__ = "sqlite"
    lost: Sequence[str] = ()
    connection: Connection

    def requires_recreate_in_batch(self, batch_op: BatchOperationsImpl) -> bool:
        if not super().requires_recreate_in_batch(batch_op):
            return False
        for operation in [*batch_op.batch]:
            if operation[0] == "drop_index":
                self.drop_index(*operation[1], **operation[2])
                batch_op.batch.remove(operation)
        return True

    def prep_table_for_batch(self, batch_impl: ApplyBatchImpl, table: Table) -> None:
        for name, column in batch_impl.columns.items():
            # SQLite refuses to insert the values of a generated column.
            if (
                column.computed is not None
                and batch_impl.column_transfers[name].pop("expr", None) is not None
            ):
                expression = generated_expression(self.connection, table.name, name)
                column.computed.sqltext = literal_column(expression)
        reflected = {index.name for index in table.indexes}
        statement = (
            "SELECT name, sql FROM sqlite_master WHERE tbl_name = :table AND type <> 'table'"
        )
        rows = self.connection.execute(text(statement), {"table": table.name})
        self.lost = [sql for name, sql in rows if sql and name not in reflected]

    def rename_table(
        self, old_table_name: str, new_table_name: str, schema: str | None = None
    ) -> None:
        super().rename_table(old_table_name, new_table_name, schema)
        for statement in self.lost:
            self.connection.exec_driver_sql(statement)
        self.lost = ()


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
