"""Removes values of requests and rows from errors, which logs and error trackers show."""

import re
from collections.abc import Callable
from typing import Any, NoReturn

from sqlalchemy.engine import Dialect, ExceptionContext
from sqlalchemy.exc import SQLAlchemyError, StatementError

Processor = Callable[[Any], Any] | None

# SQLSTATEs of messages about connections, transactions and prepared statements: they have no value.
HARMLESS = ("08", "26", "40", "42P05", "53", "57", "58", "SQLITE_")
DATA = "22"  # data exception
RAISE = {"exec_stmt_raise", "exec_stmt_assert"}  # their message is any text
PARSER = {"parse_oper.c", "parse_func.c", "parse_agg.c"}  # their messages have names and types
NAMES = ("schema_name", "table_name", "column_name", "data_type_name", "constraint_name")
TYPE_ERRORS = (LookupError, TypeError, ValueError)  # of column types, and of asyncpg's decoder
PLAIN = {BaseException.__str__, KeyError.__str__}  # the text is that of `args`

# Text in quotes of any language, or after a colon, may be a value.
QUOTED = r""""[^"]*"?|«[^»]*»?|„[^“]*“?|(?<!\w)b?'[^']*'?"""
SUSPECT = re.compile(rf"{QUOTED}|: .*", re.DOTALL)
NUMBER = re.compile(r"(?<![\w(.$#])\d[\w.]*")
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
        _mask(error, context.parameters)
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
    file = getattr(chain[-1], "server_source_filename", None)
    is_safe = file in PARSER and not chain[-1].internal_query  # that has a statement of its own
    for one in chain:
        code = getattr(one, "sqlstate", None) or getattr(one, "sqlite_errorname", None)
        if not code or not one.args:
            continue
        hidden = {"detail", "context", "internal_query"}
        message = str(one.args[0])
        shown = message if is_safe else _shown(message, code, known)
        if getattr(one, "server_source_function", None) in RAISE:
            shown = f"… ({code})"
            hidden.add("hint")
        vars(one).update(dict.fromkeys(hidden & vars(one).keys()))
        for each in filter(None, (outer, *chain)):
            text = str(each.args[0])
            if message and text.endswith(message):
                each.args = (text.removesuffix(message) + shown, *each.args[1:])
            vars(each).update({"message": each.args[0]} if "message" in vars(each) else {})
        if code.startswith(DATA) and one is not error:
            one.__cause__ = one.__context__ = None  # asyncpg's encoder names the value


def hide_stored_values(dialect: Dialect) -> None:
    """Remove a value from the error of a type that does not accept it, such as an enum."""
    base: Any = dialect.execution_ctx_cls

    class Context(base):  # type: ignore[misc]
        def get_result_processor(self, type_: Any, column: str, driver_type: Any) -> Any:
            return hiding(super().get_result_processor(type_, column, driver_type), column)

        @classmethod
        def _init_compiled(cls, *args: Any, **options: Any) -> Any:  # docs/private-apis.md
            try:
                return super()._init_compiled(*args, **options)
            except SQLAlchemyError:
                raise
            except Exception as error:
                *_, compiled, rows, _, extracted = args
                more: dict[str, Any] = options.get("param_dict") or {}
                given = [more | row for row in rows or [more]]
                _raise(error, [compiled.construct_params(row, extracted) for row in given])

    dialect.execution_ctx_cls = Context


def hiding(process: Processor, column: str) -> Processor:
    """Return the function of a type that processes stored values, with errors that do not show them."""

    def process_safely(value: Any) -> Any:
        assert process
        try:
            return process(value)
        except Exception as error:
            _raise(error, [value], f"column: {column}")

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


def _raise(error: Exception, values: Any, *notes: str) -> NoReturn:
    """Raise the error, or another one, without these values."""
    masked = _mask(error, values)
    for note in notes:
        masked.add_note(note)
    try:
        raise masked
    finally:
        masked.__context__ = None  # the error with the values


def _leaves(value: Any) -> list[Any]:
    """Return the values in a dict or a sequence, at any depth."""
    if isinstance(value, dict):
        value = list(value.values())
    return (
        [leaf for v in value for leaf in _leaves(v)] if isinstance(value, list | tuple) else [value]
    )


def _mask(error: Exception, values: Any) -> Exception:
    """Replace these values, quoted texts and numbers in an error of Python.

    Return another error if the text is not that of `args` and cannot be changed, as in Pydantic.
    """
    everything = f"{error} {error.args} {vars(error)}"
    size = len(everything)
    given = [v for v in _leaves(values) if not isinstance(v, str | bytes) or len(v) <= size]
    texts = {text for value in given for text in (repr(value), str(value)) if text in everything}
    known = [rf"(?<!\w){re.escape(text)}(?!\w)" for text in sorted(texts - {""}, key=len)[::-1]]
    pattern = re.compile("|".join([*known, QUOTED, NUMBER.pattern]))
    masked = pattern.sub("…", str(error))
    error.args = tuple(pattern.sub("…", str(argument)) for argument in error.args)
    for name, value in vars(error).items():  # `doc` of a JSONDecodeError
        if isinstance(value, list):  # such as the notes
            vars(error)[name] = [pattern.sub("…", str(each)) for each in value]
        elif isinstance(value, str | bytes | dict | tuple):
            vars(error)[name] = pattern.sub("…", str(value))
    if type(error).__str__ not in PLAIN and str(error) != masked:
        other = ValueError(f"{type(error).__qualname__}: {masked}")
        error = other.with_traceback(error.__traceback__)
    error.__cause__ = error.__context__ = None
    return error
