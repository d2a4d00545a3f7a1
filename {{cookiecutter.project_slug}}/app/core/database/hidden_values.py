"""Removes values of requests and rows from errors, which logs and error trackers show."""

import re
from collections.abc import Callable
from typing import Any

from sqlalchemy.engine import Dialect, ExceptionContext
from sqlalchemy.exc import StatementError

Processor = Callable[[Any], Any] | None

# SQLSTATEs of messages about connections, transactions and prepared statements: they have no value.
HARMLESS = ("08", "26", "40", "42P05", "53", "57", "58", "SQLITE_")
DATA = "22"  # data exception
NAMES = ("schema_name", "table_name", "column_name", "data_type_name", "constraint_name")
TYPE_ERRORS = (LookupError, TypeError, ValueError)  # of column types, and of asyncpg's decoder

# Text in quotes of any language, or after a colon, may be a value.
QUOTED = r""""[^"]*"?|«[^»]*»?|„[^“]*“?|(?<!\w)'[^']*'?"""
SUSPECT = re.compile(rf"{QUOTED}|: .*", re.DOTALL)
NUMBER = re.compile(r"(?<![\w(.$])\d[\w.]*")
WORD = re.compile(r"\w+")


def hide_values(context: ExceptionContext) -> None:
    """Remove values from an error and its causes: "Key (email)=(…) already exists." has personal data.

    `hide_parameters` does not do that for a message of the server. It is cut before a text that may
    be a value, unless each of its words is in the statement or is the name of a type or a constraint.
    """
    error: Any = context.original_exception
    outer = context.sqlalchemy_exception
    if isinstance(outer, StatementError):
        outer.params = None  # `hide_parameters` leaves them there
    if isinstance(error, TYPE_ERRORS):
        given: Any = context.parameters or ()
        rows = given if isinstance(given, list) else [given]
        _mask(error, [v for row in rows for v in (row.values() if isinstance(row, dict) else row)])
        if outer:
            outer.args = (f"({type(error).__module__}.{type(error).__name__}) {error}",)
        return
    if context.connection is None:  # it could not connect
        return
    chain = [error]
    while cause := chain[-1].__cause__:
        chain.append(cause)
    statement = context.statement or getattr(context.execution_context, "statement", None)
    texts = [statement, *(getattr(one, name, None) for one in chain for name in NAMES)]
    types = getattr(context.dialect, "ischema_names", ())
    known = {"error", "syntax", *WORD.findall(" ".join([*filter(None, texts), *types]))}
    for one in chain:
        code = getattr(one, "sqlstate", None) or getattr(one, "sqlite_errorname", None)
        if not code or not one.args:
            continue
        hidden = {"detail", "context", "internal_query"}
        message = str(one.args[0])
        shown = _shown(message, code, known)
        if getattr(one, "server_source_function", None) == "exec_stmt_raise":  # RAISE: any text
            shown = f"… ({code})"
            hidden.add("hint")
        vars(one).update(dict.fromkeys(hidden & vars(one).keys()))
        for each in filter(None, (outer, *chain)):
            each.args = (str(each.args[0]).replace(message, shown), *each.args[1:])
            vars(each).update({"message": each.args[0]} if "message" in vars(each) else {})
        if code.startswith(DATA) and one is not error:
            one.__cause__ = one.__context__ = None  # asyncpg's encoder names the value


def hide_stored_values(dialect: Dialect) -> None:
    """Remove a stored value from the error of a type that does not accept it, such as an enum."""
    base: Any = dialect.execution_ctx_cls

    class Context(base):  # type: ignore[misc]
        def get_result_processor(self, type_: Any, column: str, driver_type: Any) -> Any:
            return hiding(super().get_result_processor(type_, column, driver_type), column)

    dialect.execution_ctx_cls = Context


def hiding(process: Processor, column: str) -> Processor:
    """Return the function of a type that processes stored values, with errors that do not show them."""

    def process_safely(value: Any) -> Any:
        assert process
        try:
            return process(value)
        except TYPE_ERRORS as error:
            _mask(error, [value])
            error.add_note(f"column: {column}")
            raise

    return process and process_safely


def _shown(message: str, code: str, known: set[str]) -> str:
    """Return the part of a message that has no value."""
    if code.startswith(HARMLESS) and code != "SQLITE_ERROR":
        return message
    for suspect in SUSPECT.finditer(message):
        if code.startswith(DATA) or not known.issuperset(WORD.findall(suspect[0])):
            message = f"{message[: suspect.start()].rstrip()} … ({code})"
            break
    return NUMBER.sub("…", message) if code.startswith(DATA) else message


def _mask(error: Exception, values: list[object]) -> None:
    """Replace these values, quoted texts and numbers in an error of Python."""
    everything = repr((error.args, vars(error)))
    texts = {text for value in values for text in (repr(value), str(value)) if text in everything}
    known = [rf"(?<!\w){re.escape(text)}(?!\w)" for text in sorted(texts - {""}, key=len)[::-1]]
    pattern = re.compile("|".join([*known, QUOTED, NUMBER.pattern]))
    error.args = tuple(pattern.sub("…", str(argument)) for argument in error.args)
    for name, value in vars(error).items():  # `doc` of a JSONDecodeError
        setattr(error, name, pattern.sub("…", value) if isinstance(value, str) else value)
    error.__cause__ = error.__context__ = None
