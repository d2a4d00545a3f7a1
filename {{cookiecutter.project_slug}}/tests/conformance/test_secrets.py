"""Database passwords and statement parameters are in no repr, log, error, traceback or response."""

import logging
import os
import traceback
from urllib.parse import quote, unquote

import pytest
from fastapi import FastAPI
from httpx2 import AsyncClient
from sqlalchemy import make_url, text
from sqlalchemy.exc import DBAPIError, IntegrityError

from app.core.config import get_database, get_settings, variable
from app.core.db import get_engine, get_session, session_scope
from app.dependencies import SessionDep
from tests.conformance.inspection import registry_contents
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


@pytest.mark.postgresql
@pytest.mark.parametrize(
    "statement",
    [
        "SELECT CAST(:x AS integer)",
        "SELECT CAST(:x AS uuid)",
        "SELECT CAST(:x || '' AS integer)",
        "SELECT CAST(CAST(:x AS text) AS jsonb)",
    ],
)
async def test_rejected_parameter_is_in_no_error_log_or_response(
    app: FastAPI, client: AsyncClient, caplog: pytest.LogCaptureFixture, statement: str
) -> None:
    """asyncpg rejects the parameter of the first two statements, the server that of the others."""
    errors: list[DBAPIError] = []

    @app.get("/cast")
    async def cast(session: SessionDep) -> None:
        try:
            await session.execute(text(statement), {"x": "hush\nhush"})
        except DBAPIError as error:
            errors.append(error)
            raise

    response = await client.get("/cast")

    assert response.status_code == 422
    assert not shows_secret(errors[0], as_logged(errors[0]), caplog.text, response.text)


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
