"""Each request has an id and a line."""

import asyncio
import io
import json
import logging.config
import re
import sys
from collections.abc import Callable, Iterator
from datetime import datetime

import pytest
from fastapi import FastAPI
from httpx2 import AsyncClient
from sqlalchemy import text

from app.core.process.logging import QUIET, logging_config
from app.core.web.request_logging import REQUEST_ID
from app.dependencies import ReadSessionDep, SessionDep


def lines(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [r.getMessage() for r in caplog.records if r.name == "app.core.web.request_logging"]


@pytest.fixture(autouse=True)
def level(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)


async def test_id_of_the_client_is_kept(client: AsyncClient) -> None:
    answer = await client.get("/users", headers={REQUEST_ID: "a-1_b.C:2"})

    assert ["a-1_b.C:2"] == answer.headers.get_list(REQUEST_ID)


@pytest.mark.parametrize("path", ["/users", "/users/x", "/nowhere", "/raise"])
async def test_every_answer_has_one_id_an_error_too(
    app: FastAPI, client: AsyncClient, path: str
) -> None:
    @app.get("/raise")
    async def fail() -> None:
        raise ZeroDivisionError

    answer = await client.get(path, headers={REQUEST_ID: "mine"})

    assert ["mine"] == answer.headers.get_list(REQUEST_ID)


async def test_line_has_the_route_and_neither_its_parameters_nor_the_query(
    client: AsyncClient, caplog: pytest.LogCaptureFixture
) -> None:
    await client.get("/users/8a69bb7f-37df-4248-b4aa-e14c2db1394c?token=hidden")

    [line] = lines(caplog)
    assert re.fullmatch(r"GET /users/\{user_id\} 404 \d+\.\d ms, 1 statements \d+\.\d ms", line)


async def test_line_counts_the_statements_of_its_own_request(
    app: FastAPI, client: AsyncClient, caplog: pytest.LogCaptureFixture
) -> None:
    @app.get("/three")
    async def three(session: SessionDep, reader: ReadSessionDep) -> None:
        for one in (session, session, reader):
            await one.execute(text("SELECT 1"))

    await asyncio.gather(client.get("/three"), client.get("/health/live?x"), client.get("/nowhere"))

    records = [r for r in caplog.records if r.name == "app.core.web.request_logging"]
    counts = {vars(r)["route"]: vars(r)["statements"] for r in records}
    assert counts == {"/three": 3, "/nowhere": 0}
    [three_of_them] = [vars(r) for r in records if vars(r)["route"] == "/three"]
    assert 0 < three_of_them["database_ms"] <= three_of_them["duration_ms"]


@pytest.fixture
def configure_logging(
    monkeypatch: pytest.MonkeyPatch,
) -> Iterator[Callable[[str, str], io.StringIO]]:
    """Log as the service does, at a level and in a format; return what is written."""
    loggers = [logging.getLogger(name) for name in (None, *QUIET)]
    before = [(logger, logger.level, logger.handlers[:]) for logger in loggers]

    def configure_logging(level: str, log_format: str) -> io.StringIO:
        written = io.StringIO()
        monkeypatch.setattr(sys, "stderr", written)
        logging.config.dictConfig(logging_config(level, log_format))
        return written

    yield configure_logging
    for logger, level, handlers in before:
        logger.setLevel(level)
        logger.handlers[:] = handlers


async def test_parameters_are_in_no_log_at_any_level(
    client: AsyncClient, configure_logging: Callable[[str, str], io.StringIO]
) -> None:
    written = configure_logging("DEBUG", "text")

    await client.post("/users", json={"name": "hush", "email": "hush@example.com"})

    assert "POST /users 201" in written.getvalue()
    assert "hush" not in written.getvalue()


async def test_production_logs_json(
    app: FastAPI, client: AsyncClient, configure_logging: Callable[[str, str], io.StringIO]
) -> None:
    written = configure_logging("INFO", "json")

    @app.get("/fail")
    async def fail() -> None:
        logging.getLogger("uvicorn.error").info("one\n%s", "two", extra={"color_message": "red"})
        logging.getLogger("sqlalchemy.engine").warning("SELECT")
        raise ZeroDivisionError

    await client.get("/fail", headers={REQUEST_ID: "mine"})

    documents = [json.loads(line) for line in written.getvalue().splitlines()]
    documents = [d for d in documents if d["logger"] != "httpx2"]  # the client's
    assert [d["logger"] for d in documents] == [
        "uvicorn.error",
        "sqlalchemy.engine",
        "app.core.web.request_logging",
    ]
    assert {"mine"} == {d["request_id"] for d in documents}
    assert documents[0]["message"] == "one\ntwo"
    assert "color_message" not in documents[0]
    assert {
        "level": "INFO",
        "method": "GET",
        "route": "/fail",
        "status": 500,
        "statements": 0,
        "database_ms": 0.0,
    }.items() <= documents[-1].items()
    assert datetime.fromisoformat(documents[-1]["timestamp"]).tzinfo
