"""Routes for events."""

from typing import Annotated

from fastapi import APIRouter, Header, status

from app.core.web.streaming import Stream, stream
from app.dependencies import AnalyticsReadSessionDep, AnalyticsSessionDep
from app.schemas.event import EventBatch, EventPage, EventsCreated
from app.schemas.page import After, Limit
from app.services.event import EventService, export_events

NDJSON = "application/x-ndjson"

router = APIRouter(prefix="/analytics/events", tags=["analytics"])


@router.post("", status_code=status.HTTP_201_CREATED)
async def create_events(batch: EventBatch, session: AnalyticsSessionDep) -> EventsCreated:
    return await EventService(session).create(batch)


@router.get("")
async def list_events(
    session: AnalyticsReadSessionDep, limit: Limit = 50, after: After = None
) -> EventPage:
    return await EventService(session).page(limit, after)


@router.get("/export", response_class=Stream, responses={200: {"content": {NDJSON: {}}}})
async def export(accept_encoding: Annotated[str, Header()] = "") -> Stream:
    return await stream(export_events(), NDJSON, accept_encoding)
