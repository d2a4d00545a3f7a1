"""Events, in the analytics database. `user_id` has no foreign key: none can span two databases."""

from datetime import datetime
from typing import Any
from uuid import UUID

from sqlalchemy import JSON, BigInteger, Index, Integer, String, Uuid
from sqlalchemy.orm import Mapped, mapped_column

from app.models.base import AnalyticsBase, UtcDateTime, utc_now

# SQLite auto-increments only INTEGER, which has 64 bits there.
BigIntegerKey = BigInteger().with_variant(Integer, "sqlite")


class Event(AnalyticsBase):
    __tablename__ = "events"
    __table_args__ = (Index(None, "user_id"),)

    id: Mapped[int] = mapped_column(BigIntegerKey, primary_key=True)
    name: Mapped[str] = mapped_column(String(200))
    user_id: Mapped[UUID | None] = mapped_column(Uuid)
    properties: Mapped[dict[str, Any]] = mapped_column(JSON, default=dict)
    occurred_at: Mapped[datetime] = mapped_column(UtcDateTime, default=utc_now)
