"""Logging configuration, and the request id of each log record."""

import logging.config
import sys
from contextvars import ContextVar
from typing import Any

from app.core.config import get_settings

# Loggers that are limited to WARNING. Below it they log nothing useful (Alembic lists its plugins),
# or secrets (aiosqlite logs the parameters of each statement).
QUIET = ("aiosqlite", "alembic", "app.core.database.pool")

request_id: ContextVar[str] = ContextVar("request_id", default="-")


class RequestIdFilter(logging.Filter):
    """Set `request_id` on every record, and remove uvicorn's `color_message`."""

    def filter(self, record: logging.LogRecord) -> bool:
        record.request_id = request_id.get()
        vars(record).pop("color_message", None)
        return True


def configure_logging() -> dict[str, Any]:
    """Configure logging as the settings say, also for an exception that ends the process."""
    settings = get_settings()
    config = logging_config(settings.log_level, settings.logs_as)
    logging.config.dictConfig(config)
    logger = logging.getLogger(__name__)
    sys.excepthook = lambda *error: logger.critical("The process failed.", exc_info=error)
    return config


def logging_config(level: str, log_format: str) -> dict[str, Any]:
    """Return the configuration for `logging.config.dictConfig`, and for uvicorn's `log_config`."""
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
