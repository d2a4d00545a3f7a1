"""Events, in the analytics database. A user is known by id only: no foreign key spans two."""

from datetime import datetime
from typing import Any
from uuid import UUID

from sqlalchemy import JSON, BigInteger, Index, Integer, String, Uuid
from sqlalchemy.orm import Mapped, mapped_column

from app.models.base import AnalyticsBase, UtcDateTime, utc_now

# SQLite counts up an INTEGER, which has 64 bits there, and no other type.
BigIntegerKey = BigInteger().with_variant(Integer, "sqlite")


class Event(AnalyticsBase):
    __tablename__ = "events"
    __table_args__ = (Index(None, "user_id"),)

    id: Mapped[int] = mapped_column(BigIntegerKey, primary_key=True)
    name: Mapped[str] = mapped_column(String(200))
    user_id: Mapped[UUID | None] = mapped_column(Uuid)
    properties: Mapped[dict[str, Any]] = mapped_column(JSON, default=dict)
    occurred_at: Mapped[datetime] = mapped_column(UtcDateTime, default=utc_now)
