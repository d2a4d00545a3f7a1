"""Users, in the primary database."""

from datetime import datetime
from uuid import UUID, uuid4

from sqlalchemy import Index, String, Uuid
from sqlalchemy.orm import Mapped, mapped_column

from app.models.base import PrimaryBase, UtcDateTime, utc_now


class User(PrimaryBase):
    __tablename__ = "users"
    __table_args__ = (Index(None, "created_at", "id"),)  # the sort order of pages

    id: Mapped[UUID] = mapped_column(Uuid, primary_key=True, default=uuid4)
    name: Mapped[str] = mapped_column(String(200))
    email: Mapped[str] = mapped_column(String(320), unique=True)
    version: Mapped[int] = mapped_column(default=1)
    created_at: Mapped[datetime] = mapped_column(UtcDateTime, default=utc_now)

    __mapper_args__ = {"version_id_col": version}  # a flush checks and increments it
