"""Response model of the health routes."""

from typing import Literal

from pydantic import BaseModel


class Health(BaseModel):
    status: Literal["ok"] = "ok"
    databases: dict[str, str] = {}
