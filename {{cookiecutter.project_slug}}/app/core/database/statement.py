"""Statements that are compiled once and run on asyncpg, without most of SQLAlchemy's cost.

    ROW = prepared(select(USERS).where(USERS.c.id == bindparam("id")))
    row = await ROW.one_or_none(session, id=user_id)

Call `prepared()` once for each statement, at the top of a module.
"""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import partial
from time import perf_counter
from typing import Any

from sqlalchemy import (
    CompoundSelect,
    Connection,
    Dialect,
    Executable,
    Result,
    Row,
    Select,
    UpdateBase,
)
from sqlalchemy.engine.result import IteratorResult, SimpleResultMetaData
from sqlalchemy.exc import DBAPIError
from sqlalchemy.ext.asyncio import AsyncSession
from sqlalchemy.util import greenlet_spawn  # docs/private-apis.md

from app.core.database.hidden_values import Processor, hiding
from app.core.database.session import LazySession
from app.core.database.statistics import RAISED, work

MAX_COMPILED = 500  # statements of an engine


def prepared(statement: Any) -> "PreparedStatement":
    """Return the Core statement in a form that sessions of `core/db.py` execute faster on PostgreSQL.

    Call it at the top of a module, not in a function: each engine keeps what it has compiled.

    Raises:
        TypeError: this is no statement of SQLAlchemy, or it returns an ORM entity.
    """
    if not isinstance(statement, Executable):
        raise TypeError(
            f"prepared() takes a statement of SQLAlchemy, not {statement!r}: use text()"
        )
    described = [
        *getattr(statement, "column_descriptions", ()),
        *getattr(statement, "returning_column_descriptions", ()),
        getattr(statement, "entity_description", {}),
    ]
    for entity in filter(None, (description.get("entity") for description in described)):
        raise TypeError(
            f"a prepared statement returns rows, and {entity.__name__} is an ORM entity: "
            f"use its table, {entity.__name__}.__table__, or session.scalars(statement)"
        )
    return PreparedStatement(statement)


class PreparedStatement:
    """Executes its statement in the transaction of a session. Errors are those of `session.execute`.

    It calls `session.execute` where it cannot be faster: on other databases than PostgreSQL, after
    the session was used in another way, while an event listener or a log observes statements, with
    `execution_options`, for `in_()` with a list, and for statements that return no rows.
    """

    def __init__(self, statement: Any) -> None:
        self.statement = statement

    async def all(self, session: AsyncSession, /, **values: Any) -> Sequence[Row[Any]]:
        """Return all rows."""
        return (await self.execute(session, values)).all()

    async def one(self, session: AsyncSession, /, **values: Any) -> Row[Any]:
        """Return the only row; raise `NoResultFound` or `MultipleResultsFound`."""
        return (await self.execute(session, values)).one()

    async def one_or_none(self, session: AsyncSession, /, **values: Any) -> Row[Any] | None:
        """Return the only row, or None; raise `MultipleResultsFound`."""
        return (await self.execute(session, values)).one_or_none()

    async def execute(self, session: AsyncSession, values: dict[str, Any]) -> Result[Any]:
        """Return the result. Only that of a statement without RETURNING has a `rowcount`.

        The values are a dict, as for `session.execute`. The other methods take keywords.
        """
        connection = await session.check_out() if isinstance(session, LazySession) else None
        compiled = self._compiled_for(session, connection.dialect, values) if connection else None
        arguments = compiled.arguments(values) if compiled else None
        if connection is None or compiled is None or arguments is None:
            result: Result[Any] = await session.execute(self.statement, values)
            return result
        cursor: Any = connection.connection.cursor()
        cursor._invalidate_schema_cache_asof = compiled.dialect._invalidate_schema_cache_asof
        run = getattr(cursor, "_prepare_and_execute", None) or partial(
            greenlet_spawn, cursor.execute
        )
        done = work.get()
        began = perf_counter()
        try:
            await run(compiled.sql, arguments)
        except BaseException as error:
            if done:
                done.add(connection, began, has_failed=True)
            await self._raise(error, connection, values)
        if done:
            done.add(connection, began)
        return compiled.result(cursor)

    async def _raise(
        self, error: BaseException, connection: Connection, values: dict[str, Any]
    ) -> None:
        """Let SQLAlchemy raise the error, with its listeners, as if it had executed the statement.

        The option RAISED makes a listener raise it. The statement is not sent again.
        """
        if not (connection.closed or connection.invalidated):
            await greenlet_spawn(
                connection.execute, self.statement, values, execution_options={RAISED: error}
            )
        elif isinstance(error, Exception):  # SQLAlchemy cannot use the connection any more
            base = connection.dialect.loaded_dbapi.Error
            raise DBAPIError.instance(
                str(self.statement), None, error, base, hide_parameters=True
            ) from error
        raise error

    def _compiled_for(
        self, session: Any, dialect: Dialect, values: dict[str, Any]
    ) -> "_Compiled | None":
        statements: dict[Any, _Compiled | None] = session.compiled
        key = (self, *values)
        if key not in statements:
            if len(statements) >= MAX_COMPILED:  # `prepared()` in a function
                statements.clear()
            statements[key] = _compile(self.statement, dialect, values)
        return statements[key]


@dataclass(slots=True)
class _Compiled:
    """The SQL of a statement, and the functions that convert its values and rows."""

    dialect: Any
    sql: str
    bind_processors: list[tuple[str, Processor]]  # in the order of $1, $2, …
    constants: dict[str, Any]  # values within the statement
    defaults: dict[str, Callable[[None], Any]]  # of columns
    types: list[Any]  # of the columns of the result
    metadata: SimpleResultMetaData
    processors: Sequence[Processor] | None = None  # after an execution

    def arguments(self, values: dict[str, Any]) -> list[Any] | None:
        """Return the values for asyncpg, or None if one cannot be converted: SQLAlchemy then executes the statement."""
        try:
            if self.constants or self.defaults:
                made = {name: make(None) for name, make in self.defaults.items()}
                values = {**self.constants, **made, **values}
            return [
                values[name] if process is None else process(values[name])
                for name, process in self.bind_processors
            ]
        except Exception:
            return None

    def result(self, cursor: Any) -> Result[Any]:
        if self.processors is None:
            self.processors = [
                type_.dialect_impl(self.dialect).result_processor(self.dialect, column[1])
                for type_, column in zip(self.types, cursor.description, strict=True)
            ]
        rows = cursor.fetchall()
        if any(self.processors):
            try:
                rows = _processed(rows, self.processors)
            except Exception:  # once more, for an error without the stored value
                rows = _processed(rows, map(hiding, self.processors, self.metadata.keys))
        return IteratorResult(self.metadata, iter(rows))


def _processed(rows: Iterable[Any], processors: Iterable[Processor]) -> list[list[Any]]:
    of_columns = [(index, process) for index, process in enumerate(processors) if process]
    processed = [[*row] for row in rows]
    for row in processed:
        for index, process in of_columns:
            row[index] = process(row[index])
    return processed


def _compile(statement: Any, dialect: Dialect, names: Iterable[str]) -> _Compiled | None:
    """Compile the statement for values with these names. Return None if SQLAlchemy has to execute it."""
    if not isinstance(statement, Select | CompoundSelect | UpdateBase):
        return None
    compiled: Any = statement.compile(dialect=dialect, column_keys=[*names])
    binds = compiled.binds
    found = [(column.key, _default(column.default)) for column in compiled.insert_prefetch]
    found += [(column.key, _default(column.onupdate)) for column in compiled.update_prefetch]
    defaults = {name: default for name, default in found if default and name in binds}
    columns = compiled._result_columns
    keys = {column.name for column in columns}
    if (
        not statement.exported_columns  # it returns no rows
        or len(keys) < len(columns)  # SQLAlchemy refuses an ambiguous name
        or not compiled._ordered_columns  # their order may be another one than that of the rows
        or any(getattr(item, "is_literal", False) for column in columns for item in column.objects)
        or statement.get_execution_options()
        or any(bind.expanding or bind.literal_execute or bind.callable for bind in binds.values())
        or len(defaults) < len(found)
    ):
        return None
    return _Compiled(
        dialect,
        str(compiled),
        [
            (name, binds[name].type.dialect_impl(dialect).bind_processor(dialect))
            for name in compiled.positiontup or ()
        ],
        {name: bind.effective_value for name, bind in binds.items() if not bind.required},
        defaults,
        [column.type for column in columns],
        SimpleResultMetaData(
            [column.keyname for column in columns],
            [tuple(item for item in column.objects if item not in keys) for column in columns],
        ),
    )


def _default(default: Any) -> Callable[[None], Any] | None:
    if default.is_scalar:
        return lambda _: default.arg
    return default.arg if default.is_callable else None
