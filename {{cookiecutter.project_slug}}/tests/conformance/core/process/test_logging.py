"""Logging configuration: text and JSON, the request id, and no secrets."""

import io
import json
import logging.config
import sys
from collections.abc import Callable, Iterator
from datetime import datetime

import pytest
from fastapi import FastAPI
from httpx2 import AsyncClient

from app.core.process.logging import QUIET, logging_config
from app.core.web.request_logging import REQUEST_ID
from tests.support import USERS, user_values


@pytest.fixture
def configure_logging(
    monkeypatch: pytest.MonkeyPatch,
) -> Iterator[Callable[[str, str], io.StringIO]]:
    """Configure logging with a level and a format; return the stream that gets the output."""
    loggers = [logging.getLogger(name) for name in (None, *QUIET)]
    before = [(logger, logger.level, logger.handlers[:]) for logger in loggers]

    def configure_logging(level: str, log_format: str) -> io.StringIO:
        output = io.StringIO()
        monkeypatch.setattr(sys, "stderr", output)
        logging.config.dictConfig(logging_config(level, log_format))
        return output

    yield configure_logging
    for logger, level, handlers in before:
        logger.setLevel(level)
        logger.handlers[:] = handlers


async def test_debug_log_has_no_statement_parameters(
    client: AsyncClient, configure_logging: Callable[[str, str], io.StringIO]
) -> None:
    output = configure_logging("DEBUG", "text")

    await client.post(USERS, json=user_values("hush", email="hush@example.com"))

    assert f"POST {USERS} 201" in output.getvalue()
    assert "hush" not in output.getvalue()


async def test_json_log_has_the_request_id_and_the_fields_of_the_request(
    app: FastAPI, client: AsyncClient, configure_logging: Callable[[str, str], io.StringIO]
) -> None:
    output = configure_logging("INFO", "json")

    @app.get("/fail")
    async def fail() -> None:
        logging.getLogger("uvicorn.error").info("one\n%s", "two", extra={"color_message": "red"})
        logging.getLogger("sqlalchemy.engine").warning("SELECT")
        raise ZeroDivisionError

    await client.get("/fail", headers={REQUEST_ID: "mine"})

    documents = [json.loads(line) for line in output.getvalue().splitlines()]
    documents = [d for d in documents if d["logger"] not in {"httpx2", "tests.support"}]
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
