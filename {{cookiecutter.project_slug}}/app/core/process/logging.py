"""Logging: its configuration, and the request id on every line."""

import logging
from contextvars import ContextVar
from typing import Any

# What they have to say besides is no news, such as which plugins there are, or must not be said: aiosqlite
# shows what each statement was given.
QUIET = ("aiosqlite", "alembic", "app.core.database.pool")

request_id: ContextVar[str] = ContextVar("request_id", default="-")


class RequestIdFilter(logging.Filter):
    """Give every record the id of the request that it is about, and take uvicorn's colours from it."""

    def filter(self, record: logging.LogRecord) -> bool:
        record.request_id = request_id.get()
        vars(record).pop("color_message", None)
        return True


def logging_config(level: str, log_format: str) -> dict[str, Any]:
    """Return what `logging.config.dictConfig` and uvicorn take, whose loggers end here too."""
    return {
        "version": 1,
        "disable_existing_loggers": False,
        "filters": {"request": {"()": RequestIdFilter}},
        "formatters": {
            "text": {"format": "%(asctime)s %(levelname)s %(name)s [%(request_id)s] %(message)s"},
            "json": {
                "()": "pythonjsonlogger.json.JsonFormatter",
                "fmt": "{levelname}{name}{message}",
                "style": "{",
                "rename_fields": {"levelname": "level", "name": "logger"},
                "timestamp": True,
            },
        },
        "handlers": {
            "stderr": {
                "class": "logging.StreamHandler",
                "filters": ["request"],
                "formatter": log_format,
            }
        },
        "loggers": {name: {"level": "WARNING"} for name in QUIET},
        "root": {"level": level, "handlers": ["stderr"]},
    }
