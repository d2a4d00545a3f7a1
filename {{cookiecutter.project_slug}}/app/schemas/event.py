"""Request and response models of events."""

from datetime import datetime
from typing import Annotated
from uuid import UUID

from pydantic import BaseModel, ConfigDict, Field, JsonValue

from app.models.base import utc_now
from app.schemas.fields import JsonObject, Name, UtcTime
from app.schemas.page import Cursor, Page


class EventCreate(BaseModel):
    model_config = ConfigDict(allow_inf_nan=False)

    name: Name
    user_id: UUID | None = None
    properties: JsonObject = {}
    occurred_at: UtcTime = Field(default_factory=utc_now)


EventBatch = Annotated[list[EventCreate], Field(min_length=1, max_length=10_000)]


class EventsCreated(BaseModel):
    created: int


class EventRead(BaseModel):
    model_config = ConfigDict(from_attributes=True)

    id: int
    name: str
    user_id: UUID | None
    properties: dict[str, JsonValue]
    occurred_at: datetime


EventPage = Page[EventRead]


class EventCursor(Cursor):
    id: Annotated[int, Field(ge=0, le=2**63 - 1)]
