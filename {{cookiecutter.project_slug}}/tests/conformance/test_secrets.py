"""Database passwords and statement parameters are in no repr, log, error, traceback or response."""

import enum
import logging
import os
import traceback
from datetime import datetime
from typing import Any
from urllib.parse import quote, unquote

import pytest
from fastapi import FastAPI
from httpx2 import AsyncClient
from pydantic import BaseModel
from sqlalchemy import (
    JSON,
    Column,
    Dialect,
    LargeBinary,
    MetaData,
    String,
    Table,
    Uuid,
    insert,
    make_url,
    select,
    text,
    type_coerce,
)
from sqlalchemy.exc import DBAPIError, IntegrityError, StatementError
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column
from sqlalchemy.types import TypeDecorator, TypeEngine

from app.core.config import get_database, get_settings, variable
from app.core.database.hidden_values import _mask, _shown
from app.core.database.statement import prepared
from app.core.db import get_engine, get_session, session_scope
from app.dependencies import SessionDep
from app.models.base import TYPES, UtcDateTime
from tests.conformance.inspection import registry_contents
from tests.conformance.support import create_tables
from tests.inspection import fetch
from tests.support import USERS, new_user, set_databases

SECRET = "hush/p@ss:w%rd"
ENCODED = quote(SECRET, safe="")

FAILING_URLS = [
    f"postgresql://u:{ENCODED}@127.0.0.1:1/d",  # connection refused
    f"postgresql://u:{ENCODED}@nowhere.invalid/d",  # name not found
    f"postgresql://u:{ENCODED}@h/d?sslmode=bogus",
    f"postgresql://u:{ENCODED}@h/d?password={ENCODED}",
    f"postgresql://u:{ENCODED}@h/d?nonsense={ENCODED}",
    f"postgresql://u:{SECRET}@h/d",  # not percent-encoded
    f"mysql://u:{ENCODED}@h/d",
    f"postgresql+nothing://u:{ENCODED}@h/d",
    f"postgresql://u:{ENCODED}@h:port/d",
    ENCODED,
]


def shows_secret(*values: object) -> bool:
    """Return whether the text or the repr of a value has a part of the secret."""
    shown = " ".join(f"{value} {value!r}" for value in values)
    return any(
        part in shown or part in unquote(shown) for part in (SECRET, ENCODED, "hush", "w%rd")
    )


def as_logged(error: BaseException) -> str:
    """Return what error trackers show: the traceback, and the attributes of each error in the chain."""
    shown = [*traceback.format_exception(error)]
    pending: list[BaseException | None] = [error]
    seen = set[int]()
    while pending:
        one = pending.pop()
        if one is not None and id(one) not in seen:
            seen.add(id(one))
            shown += [repr(one), repr(vars(one))]
            pending += [one.__cause__, one.__context__, getattr(one, "orig", None)]
    return "".join(shown)


@pytest.mark.parametrize(("dev", "read_only"), [(False, False), (True, False), (False, True)])
async def test_password_is_in_no_repr(
    environment: pytest.MonkeyPatch, dev: bool, read_only: bool
) -> None:
    for name in ("DATABASE_URL", "DEV_DATABASE_URL", "READ_DATABASE_URL"):
        environment.setenv(f"DATABASES__PRIMARY__{name}", f"postgresql://u:{ENCODED}@h/d")
    engine = get_engine(dev=dev, read_only=read_only)
    async with session_scope(dev=dev, read_only=read_only) as session:
        session.add(new_user())
        await session.rollback()

        assert engine.url.password == SECRET
        assert not shows_secret(
            get_settings(),
            get_database(),
            engine,
            engine.url,
            engine.pool,
            session,
            session.info,
            session.get_bind(),
            get_session(dev=dev, read_only=read_only),
            *registry_contents(),
        )


@pytest.mark.sqlite  # the URL of the test replaces that of the database
async def test_password_of_a_failing_url_is_in_no_error_log_or_response(
    client: AsyncClient,
    environment: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    capfd: pytest.CaptureFixture[str],
) -> None:
    caplog.set_level(logging.DEBUG)
    for number, url in enumerate(FAILING_URLS):
        set_databases(environment, {"primary": url})

        with pytest.raises(Exception) as error:  # noqa: PT011, the type depends on the URL
            async with session_scope() as session:
                await session.execute(text("SELECT 1"))
        responses = [await client.get(USERS), await client.get("/openapi.json")]

        assert responses[0].status_code in {500, 503}, number
        shown = (as_logged(error.value), caplog.text, *capfd.readouterr())
        assert not shows_secret(error.value, *shown), number
        for response in responses:
            assert not shows_secret(f"{response.headers} {response.text}"), number
        caplog.clear()


@pytest.mark.postgresql
async def test_password_that_the_server_rejects_is_in_no_error_log_or_response(
    client: AsyncClient, environment: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    url = make_url(os.environ[variable("primary")]).set(username="nobody", password=SECRET)
    set_databases(environment, {"primary": url.render_as_string(hide_password=False)})

    with pytest.raises(Exception) as error:  # noqa: PT011, the type depends on the URL
        async with session_scope() as session:
            await session.execute(text("SELECT 1"))
    response = await client.get(USERS)

    assert response.status_code == 503
    assert not shows_secret(error.value, as_logged(error.value), caplog.text, response.text)


REJECTED = {
    "postgresql": [
        (422, "SELECT CAST(:x AS integer)", "hush\nhush"),  # rejected by asyncpg, as the next one
        (422, "SELECT CAST(:x AS uuid)", "hush\nhush"),
        (422, "SELECT CAST(:x || '' AS integer)", "hush\nhush"),
        (422, "SELECT CAST(CAST(:x AS text) AS jsonb)", "hush\nhush"),
        (422, "SELECT set_config('work_mem', :x, true)", "hush"),
        (500, "SELECT to_tsquery(:x)", "hush hush"),
        (500, "SELECT CAST(CAST(:x AS text) AS regclass)", "hush"),
        (500, "SELECT CAST(CAST(:x AS text) AS regclass)", "hush.hush.hush.hush"),
        (500, "SELECT CAST(CAST(:x AS text) AS regtype)", "hush"),
        (500, "SELECT CAST(CAST(:x AS text) AS regrole)", "hush"),
        (500, "SELECT CAST(CAST(:x AS text) AS regoper)", "hush"),
        (500, "SELECT CAST(CAST(:x AS text) AS regconfig)", "hush"),
        (500, "SELECT CAST(CAST(:x AS text) AS jsonpath)", "$ hush"),
        (500, "SELECT complain(:x)", "hush"),
        (500, "SELECT complain(:x)", "e"),  # a letter of each other text
        (500, "SELECT complain(:x)", ""),
        (500, "SELECT doubt(:x)", "hush"),
        (
            500,
            "SELECT query_to_xml(:x, true, true, '')",
            "SELECT hush, max(1) FROM (VALUES (1)) t(hush)",
        ),
    ],
    "sqlite": [
        (500, "SELECT json_extract('{}', :x)", "hush"),
    ],
}
COMPLAIN = """
CREATE FUNCTION complain(x text) RETURNS text LANGUAGE plpgsql
AS $$ BEGIN RAISE '%', x USING HINT = x; END $$
"""
DOUBT = """
CREATE FUNCTION doubt(x text) RETURNS text LANGUAGE plpgsql AS $$ BEGIN ASSERT false, x; END $$
"""


async def test_rejected_parameter_is_in_no_error_log_or_response(
    app: FastAPI, client: AsyncClient, caplog: pytest.LogCaptureFixture
) -> None:
    errors: list[DBAPIError] = []
    cases = REJECTED[get_engine().dialect.name]
    if get_engine().dialect.name == "postgresql":
        await fetch(COMPLAIN)
        await fetch(DOUBT)

    @app.get("/{number}")
    async def execute(session: SessionDep, number: int) -> None:
        _, statement, value = cases[number]
        try:
            await session.execute(text(statement), {"x": value})
        except DBAPIError as error:
            errors.append(error)
            raise

    for number, (status, *case) in enumerate(cases):
        response = await client.get(f"/{number}")

        assert response.status_code == status, case
        shown = (as_logged(errors[-1]), caplog.text, response.text)
        assert not shows_secret(errors[-1], *shown), case
        assert len(errors) == number + 1
        assert "dialects.postgresql" in str(errors[-1]) or "sqlite3" in str(errors[-1])


@pytest.mark.sqlite  # it uses no database
def test_number_of_an_element_is_not_a_value() -> None:
    message = "invalid input for query argument $1 in element #1 of executemany() sequence"

    assert _shown(message, "22000", set()) == message


# Each error still names the table, column or type that a developer has to correct.
EXPLAINED = {
    "SELECT * FROM nowhere": 'relation "nowhere" does not exist',
    "SELECT users.nothing FROM users": "column users.nothing does not exist",
    'SELECT "nothing" FROM users': 'column "nothing" does not exist',
    "SELECT 1 = CAST(:x AS text)": "operator does not exist: integer = text",
    "SELECT ROW(1) = 1": "operator does not exist: record = integer",
    "SELECT users.*, count(*) FROM users": 'column "users.id" must appear in the GROUP BY clause',
    "SELECT 1 FORM users": 'syntax error at or near "users"',
    "SELECT lower(1)": "function lower(integer) does not exist",
    "SELECT to_tsquery(:x)": "syntax error in tsquery … (42601)",
    "SELECT CAST(CAST(:x AS text) AS regclass)": "relation … (42P01)",
    "SELECT CAST(CAST(:x AS text) AS varchar(3)) || CAST(1 AS numeric(2, 2))": "numeric field overflow",
    "UPDATE users SET name = NULL": 'null value in column "name" of relation "users" violates not-null',
    "UPDATE users SET id = '00000000-0000-0000-0000-000000000000'": "pk_users",
}


@pytest.mark.postgresql
@pytest.mark.parametrize("statement", EXPLAINED)
async def test_message_without_values_still_explains_the_error(
    databases: None, statement: str
) -> None:
    value = "hush hush" if "tsquery" in statement else "hush"
    with pytest.raises(DBAPIError) as error:
        async with session_scope() as session:
            session.add_all([new_user(), new_user()])
            await session.flush()
            await session.execute(text(statement), {"x": value})

    assert EXPLAINED[statement] in str(error.value.orig)
    assert EXPLAINED[statement] in str(error.value.orig and error.value.orig.__cause__)
    assert statement.partition(":")[0] in str(error.value)


class Mood(enum.Enum):
    good = "good"


class Other(enum.Enum):
    hush = "hush"


class Stored(DeclarativeBase):
    type_annotation_map = TYPES


class Diary(Stored):
    __tablename__ = "diaries"
    id: Mapped[int] = mapped_column(primary_key=True)
    mood: Mapped[Mood]
    time: Mapped[datetime | None] = mapped_column(UtcDateTime)


async def reading_a_stored_value(type_: TypeEngine[Any]) -> Exception:
    """Return the error of a type that does not accept the stored value."""
    await create_tables(Stored)
    async with session_scope() as session:
        await session.execute(text("INSERT INTO diaries (id, mood) VALUES (1, 'hush')"))

    with pytest.raises((LookupError, ValueError, DecryptError)) as error:
        async with session_scope() as session:
            await session.scalars(select(type_coerce(Diary.mood, type_)))
    return error.value


@pytest.mark.parametrize("type_", [Diary.mood.type, Uuid(native_uuid=False)], ids=repr)
async def test_stored_value_that_a_type_does_not_accept_is_in_no_error(
    databases: None, type_: TypeEngine[Any]
) -> None:
    error = await reading_a_stored_value(type_)

    assert not shows_secret(error, as_logged(error))
    assert "column: mood" in as_logged(error)


class Address(BaseModel):
    number: int


class AddressType(TypeDecorator[Any]):
    """Its errors are Pydantic's, whose text cannot be changed."""

    impl = String
    cache_ok = True

    def process_bind_param(self, value: Any, _: Dialect) -> str:
        return Address.model_validate(value).model_dump_json()

    def process_result_value(self, value: Any, _: Dialect) -> Any:
        return Address.model_validate({"number": value})


class DecryptError(Exception):
    def __init__(self, token: Any) -> None:
        super().__init__(f"cannot decrypt {token}")
        self.token, self.tokens = token, [token]


class EncryptedType(TypeDecorator[Any]):
    """Its errors have no class of Python's for values."""

    impl = String
    cache_ok = True

    def process_bind_param(self, value: Any, _: Dialect) -> str:
        raise DecryptError(value)

    def process_result_value(self, value: Any, _: Dialect) -> Any:
        raise DecryptError(value.encode())


class AsciiType(TypeDecorator[Any]):
    impl = LargeBinary
    cache_ok = True

    def process_bind_param(self, value: Any, _: Dialect) -> bytes:
        return bytes(value.encode("ascii"))


OWN_TYPES: dict[TypeEngine[Any], str] = {
    AddressType(): "ValidationError: … validation error for Address",
    EncryptedType(): "DecryptError) cannot decrypt",
}


@pytest.mark.parametrize("type_", OWN_TYPES, ids=repr)
async def test_stored_value_that_an_own_type_does_not_accept_is_in_no_error(
    databases: None, type_: TypeEngine[Any]
) -> None:
    error = await reading_a_stored_value(type_)

    assert OWN_TYPES[type_] in f"({type(error).__name__}) {error}".removeprefix("(ValueError) ")
    assert not shows_secret(error, as_logged(error))
    with pytest.raises(type(error)) as other:
        async with session_scope() as session:
            await prepared(select(type_coerce(Diary.__table__.c.mood, type_))).all(session)
    assert str(other.value) == str(error)
    assert not shows_secret(other.value, as_logged(other.value))
    assert "column: mood" in as_logged(error)
    assert "process_result_value" in as_logged(error)


@pytest.mark.parametrize(
    ("type_", "value", "message"),
    [
        *((type_, {"number": "hush"}, message) for type_, message in OWN_TYPES.items()),
        (EncryptedType(), "hush", "DecryptError) cannot decrypt …"),
        (AsciiType(), "hush\xfc", "UnicodeEncodeError: … codec can't encode character …"),
        (Uuid(native_uuid=False), "hush", "AttributeError"),
    ],
)
@pytest.mark.parametrize("is_literal", [False, True])
async def test_written_value_that_an_own_type_does_not_accept_is_in_no_error(
    databases: None, type_: TypeEngine[Any], value: Any, message: str, is_literal: bool
) -> None:
    table = Table("things", MetaData(), Column("x", type_))
    statement = insert(table).values(x=value) if is_literal else insert(table)

    with pytest.raises(StatementError) as error:
        async with session_scope() as session:
            await session.execute(statement, None if is_literal else [{"x": value}] * 2)

    assert message in str(error.value)
    assert "INSERT INTO things" in str(error.value)
    assert not shows_secret(error.value, as_logged(error.value))


@pytest.mark.sqlite  # it uses no database
def test_error_of_a_type_costs_no_memory_for_large_values() -> None:
    class Large(bytes):
        def __repr__(self) -> str:
            raise MemoryError

    error = _mask(TypeError("hush, 'hush' or b'hush'"), [{"x": Large(100), "y": ["hush"]}])

    assert str(error) == "…, … or …"


@pytest.mark.sqlite  # PostgreSQL checks JSON when it is written
async def test_stored_json_that_is_not_valid_is_in_no_error(databases: None) -> None:
    error = await reading_a_stored_value(JSON())

    assert not shows_secret(error, as_logged(error))


@pytest.mark.postgresql
async def test_stored_date_that_python_does_not_have_is_in_no_error(databases: None) -> None:
    with pytest.raises(ValueError, match="year … is out of range") as error:
        async with session_scope() as session:
            await session.execute(text("SELECT CAST('10000-01-01' AS date)"))

    assert "year 10000" not in as_logged(error.value)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"mood": Other.hush}, "… is not among the defined enum values. Enum name: mood."),
        ({"mood": Mood.good, "time": datetime(2077, 1, 1)}, "… has no time zone"),  # noqa: DTZ001
    ],
)
async def test_written_value_that_a_type_does_not_accept_is_in_no_error(
    databases: None, values: dict[str, Any], message: str
) -> None:
    await create_tables(Stored)

    with pytest.raises(StatementError, match=message) as error:
        async with session_scope() as session:
            session.add(Diary(**values))
            await session.flush()

    assert not shows_secret(error.value, as_logged(error.value))
    assert "2077" not in as_logged(error.value)


async def test_written_values_are_in_no_error_and_no_response(
    app: FastAPI, client: AsyncClient
) -> None:
    errors: list[IntegrityError] = []

    @app.post("/twins")
    async def twins(session: SessionDep) -> None:
        session.add_all([new_user(email="hush@example.com") for _ in range(2)])
        try:
            await session.flush()
        except IntegrityError as error:
            errors.append(error)
            raise

    response = await client.post("/twins")

    assert response.status_code == 409
    assert not shows_secret(errors[0], as_logged(errors[0]), response.text)


async def test_written_values_are_not_in_the_log_of_sqlalchemy(
    databases: None, caplog: pytest.LogCaptureFixture
) -> None:
    """Its level INFO is what `create_engine(echo=True)` sets. DEBUG logs the rows, too."""
    caplog.set_level(logging.INFO, "sqlalchemy.engine")
    async with session_scope() as session:
        session.add(new_user(email="hush@example.com"))

    assert "INSERT INTO users" in caplog.text
    assert not shows_secret(caplog.text)
