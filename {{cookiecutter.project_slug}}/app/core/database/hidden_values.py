"""Removes values of requests and rows from errors, which logs and error trackers show."""

import re
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from sqlalchemy.engine import Dialect, ExceptionContext
from sqlalchemy.exc import StatementError

# SQLSTATEs of messages about connections, transactions and prepared statements: they have no value.
HARMLESS = ("08", "26", "40", "42P05", "53", "57", "58")
DATA = "22"  # data exception
RAISE = "exec_stmt_raise"  # the function of PostgreSQL that runs RAISE, with a text of any kind
NAMES = ("schema_name", "table_name", "column_name", "data_type_name", "constraint_name")
TYPE_ERRORS = (LookupError, TypeError, ValueError)  # of column types, and of asyncpg's decoder

# What may be a value in a message: text in quotes of any language, or after a colon.
SUSPECT = re.compile(r""""[^"]*"?|«[^»]*»?|„[^“]*“?|(?<!\w)'[^']*'?|: .*""", re.DOTALL)
NUMBER = re.compile(r"(?<![\w(.$])\d[\w.]*")
WORD = re.compile(r"\w+")


def hide_values(context: ExceptionContext) -> None:
    """Remove values from an error and its causes: "Key (email)=(…) already exists." has personal data.

    `hide_parameters` does not do that for a message of the server. It is cut before a text that may
    be a value, unless each of its words is in the statement or is the name of a type or a constraint.
    """
    outer = context.sqlalchemy_exception
    if isinstance(outer, StatementError):
        outer.params = None  # `hide_parameters` leaves them there
    if context.connection is None:  # it could not connect
        return
    error: Any = context.original_exception
    if isinstance(error, TYPE_ERRORS):
        _mask(error, [*_flat(context.parameters)], outer)
        if outer is None:  # asyncpg's decoder: "year 10000 is out of range"
            error.args = tuple(NUMBER.sub("…", argument) for argument in error.args)
        return
    chain = [error]
    while cause := chain[-1].__cause__:
        chain.append(cause)
    known = {"error", "syntax"} | _words(
        context.statement or getattr(context.execution_context, "statement", None),
        *getattr(context.dialect, "ischema_names", ()),
        *(getattr(one, name, None) for one in chain for name in NAMES),
    )
    for one in chain:
        code = getattr(one, "sqlstate", None) or getattr(one, "sqlite_errorname", None)
        if code and one.args:
            is_raised = getattr(one, "server_source_function", None) == RAISE
            for name in ("detail", "context", "internal_query", *(["hint"] if is_raised else [])):
                if getattr(one, name, None):
                    setattr(one, name, None)
            if getattr(one, "hint", None):
                one.hint = _shown(one.hint, code, known)
            message = str(one.args[0])
            shown = f"… ({code})" if is_raised else _shown(message, code, known)
            for each in (outer, *chain):
                _replace(each, message, shown)
            if code.startswith(DATA) and one is not error:
                one.__cause__ = one.__context__ = None  # asyncpg's encoder names the value


def hide_stored_values(dialect: Dialect) -> None:
    """Remove a stored value from the error of a type that does not accept it, such as an enum."""
    base: Any = dialect.execution_ctx_cls

    class Context(base):  # type: ignore[misc]
        def get_result_processor(self, type_: Any, column: str, driver_type: Any) -> Any:
            process = super().get_result_processor(type_, column, driver_type)

            def process_safely(value: Any) -> Any:
                try:
                    return process(value)
                except TYPE_ERRORS as error:
                    _mask(error, [value])
                    error.add_note(f"column: {column}")
                    raise

            return process and process_safely

    dialect.execution_ctx_cls = Context


def _shown(message: str, code: str, known: set[str]) -> str:
    """Return the part of a message that has no value."""
    if code.startswith(HARMLESS) or (code.startswith("SQLITE_") and code != "SQLITE_ERROR"):
        return message
    is_data = code.startswith(DATA)
    hidden = ""
    for suspect in SUSPECT.finditer(message):
        if is_data or not known.issuperset(WORD.findall(suspect[0])):
            message, hidden = message[: suspect.start()].rstrip(), f" … ({code})"
            break
    return (NUMBER.sub("…", message) if is_data else message) + hidden


def _words(*texts: str | None) -> set[str]:
    return {*WORD.findall(" ".join(text or "" for text in texts))}


def _replace(error: BaseException | None, old: str, new: str) -> None:
    if error and error.args and old:
        error.args = (str(error.args[0]).replace(old, new), *error.args[1:])
        if hasattr(error, "message"):
            error.message = error.args[0]


def _mask(error: Exception, values: list[object], outer: BaseException | None = None) -> None:
    """Replace the values in an error of Python. Their text is known."""
    before = str(error)
    shown = repr((error.args, vars(error)))
    texts = {text for value in values for text in (repr(value), str(value)) if text in shown}
    alternatives = "|".join(map(re.escape, sorted(texts - {""}, key=len, reverse=True)))
    pattern = re.compile(rf"(?<!\w)(?:{alternatives})(?!\w)" if alternatives else "(?!)")
    error.args = tuple(pattern.sub("…", str(argument)) for argument in error.args)
    for name, value in vars(error).items():  # `doc` of a JSONDecodeError
        setattr(error, name, pattern.sub("…", value) if isinstance(value, str) else value)
    error.__cause__ = error.__context__ = None
    _replace(outer, before, str(error))


def _flat(parameters: object) -> Iterator[object]:
    """Yield each value of parameters, which are a dict or a tuple, or a list of these."""
    if isinstance(parameters, Mapping):
        parameters = parameters.values()
    if isinstance(parameters, Iterable) and not isinstance(parameters, str | bytes):
        for each in parameters:
            yield from _flat(each)
    else:
        yield parameters
