"""Routes of events."""

from fastapi import APIRouter, status

from app.dependencies import EventServiceDep
from app.schemas.event import EventBatch, EventRead, EventsCreated
from app.schemas.page import After, Limit, Page

router = APIRouter(prefix="/analytics/events", tags=["analytics"])


@router.post("", status_code=status.HTTP_201_CREATED)
async def create_events(batch: EventBatch, events: EventServiceDep) -> EventsCreated:
    return await events.create(batch)


@router.get("")
async def list_events(
    events: EventServiceDep, limit: Limit = 50, after: After = None
) -> Page[EventRead]:
    return await events.page(limit, after)
