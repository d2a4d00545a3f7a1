"""What `alembic revision --autogenerate` compares and writes, and which drafts it refuses."""

import ast
import re
import sys
import warnings
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from functools import cache
from typing import Any, Literal

import sqlalchemy as sa
from alembic.autogenerate.api import AutogenContext
from alembic.operations.ops import AlterColumnOp, MigrationScript, UpgradeOps
from alembic.runtime.migration import MigrationContext
from alembic.runtime.plugins import Plugin
from alembic.util import CommandError, DispatchPriority, PriorityDispatchResult
from sqlalchemy.dialects import postgresql
from sqlalchemy.orm import configure_mappers
from sqlalchemy.schema import CreateColumn

from app import migrations
from app.core.config import variable
from app.migrations.sqlite import generated_expression

PLUGINS = ["alembic.autogenerate.*", __name__]  # with `compare_server_default`
CREATE_TABLE = r'(?i)\bcreate\s+table\s+(?:if\s+not\s+exists\s+)?(?:"?\w+"?\.)?"?(\w+)'
CAST = re.compile(r"""^(E?'(?:[^']|'')*')::[\w ".]+(\([\d,]+\))?[\w ]*(\[\])*$""")
DIALECTS = [sa.make_url(f"{name}://").get_dialect()() for name in ("postgresql", "sqlite")]


def _require_supported(database: str, upgrade: UpgradeOps) -> None:
    """Raise `CommandError` if the revision could not create or change what the draft contains."""
    for difference in upgrade.as_diffs():
        for change in difference if isinstance(difference, list) else [difference]:
            types: dict[str, Any] = {}
            match change:
                case ["add_table", table] if table.schema is not None:
                    raise CommandError(
                        f"the table {table} has a schema: remove schema= from the model, create it in "
                        "PostgreSQL, and add the parameter "
                        f"options=-csearch_path%3D{table.schema} to {variable(database)}"
                    )
                case ["add_table", table]:
                    types = {str(column): column.type for column in table.columns}
                case ["add_column", _, table, column]:
                    types = {f"{table}.{column.name}": column.type}
                case ["modify_type", _, table, name, _, _, new]:
                    types = {f"{table}.{name}": new}
            for column, of in types.items():
                if name := _named_type(of):
                    raise CommandError(
                        f"{column} needs the PostgreSQL type {name!r}, which revisions cannot change "
                        "or drop: write Mapped[…] without an Enum, native_enum=False, or "
                        "postgresql.ENUM(…, create_type=False) with a CREATE TYPE in a revision"
                    )


def _named_type(of: sa.types.TypeEngine[Any]) -> str | None:
    """Return the name of the type, ENUM or DOMAIN, that a table would create in PostgreSQL."""
    impl: Any = of.dialect_impl(DIALECTS[0])
    impl = impl.impl_instance if isinstance(impl, sa.TypeDecorator) else impl
    if isinstance(impl, sa.ARRAY):
        return _named_type(impl.item_type)
    if not isinstance(impl, postgresql.ENUM | postgresql.DOMAIN):
        return None
    # Alembic's copy of an sa.Enum forgets create_type=False.
    return str(impl.name) if impl.create_type or type(of) is sa.Enum else None


def is_owned(database: str) -> Callable[..., bool]:
    """Return a filter for autogenerate: a table that no revision creates is not the service's."""

    @cache
    def created_tables() -> set[str]:
        files = (migrations.FOLDER / database).glob("*.py")
        texts = [file.read_text(encoding="utf-8") for file in files]
        return {table for text in texts for table in _created_tables(text)}

    def include_object(_: object, name: str | None, kind: str, reflected: bool, to: object) -> bool:
        if kind != "table" or not reflected or to is not None:
            return True
        return name in created_tables()

    return include_object


def _created_tables(revision: str) -> Iterator[str]:
    for node in ast.walk(ast.parse(revision)):
        match node:
            case ast.Call(func=ast.Attribute(attr="create_table" | "rename_table")):
                names = [*node.args[:2], *(keyword.value for keyword in node.keywords)]
                yield from (str(name.value) for name in names if isinstance(name, ast.Constant))
            case ast.Constant(value=str(sql)):
                sql = re.sub(r"(?s)--[^\n]*|/\*.*?\*/", "", sql)
                yield from re.findall(CREATE_TABLE, sql)


def render_item(kind: str, item: Any, autogen: AutogenContext) -> str | Literal[False]:
    """Render a type as one of SQLAlchemy's, because its own code may change; otherwise import it."""
    if kind == "server_default":
        return _render_default(getattr(item, "arg", item))
    if kind != "type" or isinstance(item, postgresql.DOMAIN):  # its repr() has no create_type
        return False
    variants = [
        f".with_variant({_text(of)}, {name!r})" for name, of in item._variant_mapping.items()
    ]
    texts = ["".join([_text(item), *variants])]
    if isinstance(item, sa.TypeDecorator):
        on_postgresql, on_sqlite = (_text(item.load_dialect_impl(on)) for on in DIALECTS)
        texts = [_text(item.impl_instance), f"{on_postgresql}.with_variant({on_sqlite}, 'sqlite')"]
    for text in texts:
        if text != f"sa.{item!r}" and _creates_the_same(text, item):
            if "postgresql." in text:
                autogen.imports.add("from sqlalchemy.dialects import postgresql")
            return text
    if not (module := type(item).__module__).startswith("sqlalchemy."):
        autogen.imports.add(f"import {module}")
    return False


def _render_default(default: Any) -> str | Literal[False]:
    """Render `func.now()`, `true()` and texts as they are: Alembic writes them for one database."""
    if isinstance(default, str):
        return repr(default)
    if not isinstance(default, sa.TextClause):
        for text in (f"sa.{default}()", f"sa.func.{default}"):
            if _creates_the_same(text, default):
                return text
    elif literal := CAST.match(default.text):  # SQLite has no such casts
        return f"sa.text({literal[1]!r})"
    return False


def _text(of: sa.types.TypeEngine[Any]) -> str:
    is_postgresql = type(of).__module__.startswith("sqlalchemy.dialects.postgresql")
    text = re.sub(
        r"(?<=[(=\s])([A-Z]\w*)\(",
        lambda match: f"{'sa' if hasattr(sa, match[1]) else 'postgresql'}.{match[0]}",
        repr(of),
    )
    return f"{'postgresql' if is_postgresql else 'sa'}.{text}"


def _creates_the_same(text: str, item: Any) -> bool:
    """Return whether the text is Python for this type or default on both databases."""
    with suppress(Exception):  # the text is no Python, or names something else
        rendered = eval(text, {"sa": sa, "postgresql": postgresql})  # noqa: S307
        return [_ddl(rendered, on) for on in DIALECTS] == [_ddl(item, on) for on in DIALECTS]
    return False


def _ddl(of: Any, dialect: sa.Dialect) -> str | None:
    with suppress(sa.exc.CompileError):  # this database has no such type
        return str(of.compile(dialect=dialect))
    return None


def compare_server_default(
    autogen: AutogenContext, change: AlterColumnOp, *of: Any
) -> PriorityDispatchResult:
    """Compare defaults and generated columns as PostgreSQL writes them: Alembic compares texts."""
    _, table, name, stored, model = of
    connection: Any = autogen.connection
    text: Any
    refused = CommandError(
        f"the column {table}.{name} is generated in another way in the database, or only there or "
        "only in the model, and autogenerate cannot change that: write a revision that drops the "
        "column and adds it again"
    )
    persisted = getattr(model.server_default, "persisted", None)
    is_as_persistent = persisted in {None, getattr(stored.server_default, "persisted", None)}
    match model.server_default, stored.server_default:
        case sa.Identity(), _ if not connection.dialect.supports_identity_columns:
            return PriorityDispatchResult.STOP
        case (sa.Computed(sqltext=arg), sa.Computed(sqltext=text)) if is_as_persistent:
            default: Any = sa.Computed(arg, persisted=persisted)
        case (sa.Computed(), _) | (None | sa.DefaultClause() | sa.Identity(), sa.Computed()):
            raise refused
        case (sa.DefaultClause(arg=arg), sa.DefaultClause(arg=text)):
            default = sa.DefaultClause(arg)
        case _:
            return PriorityDispatchResult.CONTINUE
    of_type = model.type if isinstance(stored.type, sa.types.NullType) else stored.type
    ddl = str(CreateColumn(sa.Column("alembic_draft", of_type, default)).compile(connection))
    if connection.dialect.name != "sqlite":
        try:
            is_stored = _on_postgresql(connection, table, ddl) == _without_cast(text.text)
        except sa.exc.DBAPIError:  # the role may not create a table
            return PriorityDispatchResult.CONTINUE
    elif isinstance(default, sa.Computed):
        is_stored = f"AS ({generated_expression(connection, table, name)})" in ddl
    else:
        is_stored = ddl.endswith((f"DEFAULT {text.text}", f"DEFAULT {text.text[1:-1]}"))
    if is_stored:
        return PriorityDispatchResult.STOP
    if isinstance(default, sa.Computed):
        raise refused
    if connection.dialect.name == "sqlite":  # '0' and 0 are the same there
        return PriorityDispatchResult.CONTINUE
    change.modify_server_default = model.server_default
    return PriorityDispatchResult.STOP


def _on_postgresql(connection: sa.Connection, table: str, ddl: str) -> str:
    """Return the default or the expression of a column as PostgreSQL would write it."""
    like = connection.dialect.identifier_preparer.quote(table)
    column: Any = {"default": None}  # if it is no value of the type
    with connection.begin_nested() as savepoint:
        connection.exec_driver_sql(f"CREATE TEMP TABLE alembic_draft (LIKE {like})")
        with suppress(sa.exc.DBAPIError):
            connection.exec_driver_sql(f"ALTER TABLE alembic_draft ADD COLUMN {ddl}")
            column = sa.inspect(connection).get_columns("alembic_draft")[-1]
        savepoint.rollback()
    return _without_cast(str(column.get("computed", {}).get("sqltext", column["default"])))


def _without_cast(text: str) -> str:
    """Remove the cast of a literal: it is the old type if the type of the column has changed."""
    return re.sub(r"^'([-\d.]+)'$", r"\1", CAST.sub(r"\1", text))


def require_ready(database: str) -> None:
    """Raise `CommandError` if a draft would repeat unapplied revisions, or a model is wrong."""
    try:
        configure_mappers()
    except TypeError as error:
        raise CommandError(str(error)) from error
    if pending := migrations.pending(database):
        raise CommandError(
            f"the database {database!r} has unapplied revisions ({', '.join(pending)}): "
            "read them, run `make migrate`, and try again"
        )


def stored_indexes(connection: sa.Connection) -> list[str]:
    """Return the names of the indexes of a SQLite database, which reflection does not list in full."""
    if connection.dialect.name != "sqlite":
        return []
    statement = sa.text("SELECT name FROM sqlite_master WHERE type = 'index'")
    names = [*connection.scalars(statement)]
    connection.rollback()
    return names


@contextmanager
def refuse_omissions(stored: Iterable[str]) -> Iterator[None]:
    """Raise `CommandError` where autogenerate would leave something out with a warning only.

    The indexes with these names are in the database, so that nothing is left out.
    """
    with warnings.catch_warnings():
        warnings.filterwarnings("error", "", UserWarning, r"alembic\.(autogenerate|ddl)")
        for name in stored:
            warnings.filterwarnings("ignore", f".*index '{re.escape(name)}'", UserWarning)
        try:
            yield
        except UserWarning as omission:
            raise CommandError(
                f"no revision is written, because it would be incomplete: {omission}. On SQLite, use "
                "`make revision`, which compares with PostgreSQL if it can start a server"
            ) from omission


def review(
    database: str,
    context: MigrationContext,
    revision: str | Iterable[str | None],
    drafts: list[MigrationScript],
) -> None:
    """Refuse or warn before Alembic writes the file (`process_revision_directives`)."""
    for draft in drafts:
        if draft.upgrade_ops is None or draft.upgrade_ops.is_empty():
            raise CommandError(
                "autogenerate found no difference, so no revision is written: import a new model in "
                "app/models/__init__.py; for rows or a CHECK constraint, write an empty revision "
                'with `alembic -n DATABASE revision -m "…"`'
            )
        _require_supported(database, draft.upgrade_ops)
        for loss in _losses(draft.upgrade_ops):
            sys.stderr.write(f"warning: {loss}\n")


def _losses(upgrade: UpgradeOps) -> Iterator[str]:
    added: list[tuple[str, str]] = []  # names of columns with their tables, of tables with ""
    dropped: list[tuple[str, str]] = []
    for difference in upgrade.as_diffs():
        match difference:
            case ["add_column" | "remove_column" as kind, _, table, column]:
                (added if kind == "add_column" else dropped).append((table, column.name))
            case ["add_table" | "remove_table" as kind, table]:
                (added if kind == "add_table" else dropped).append(("", table.name))
    for table, name in dropped:
        what = f"the column {table}.{name}" if table else f"the table {name}"
        yield f"the revision drops {what}: remove this if the running release uses it"
        if new := [other for of, other in added if of == table]:
            names = " or ".join(new)
            yield f"if {name} is renamed to {names}, replace the two operations by a rename"


Plugin(__name__).add_autogenerate_comparator(
    compare_server_default, "column", "server_default", priority=DispatchPriority.FIRST
)
