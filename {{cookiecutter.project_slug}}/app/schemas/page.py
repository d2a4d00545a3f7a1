"""Keyset pagination: a page of a listing, and the cursor of the next page."""

from base64 import urlsafe_b64decode, urlsafe_b64encode
from collections.abc import Sequence
from typing import Annotated, Any, Generic, Self, TypeVar

from fastapi import Query
from pydantic import BaseModel, ConfigDict
from sqlalchemy import Row

from app.errors import InvalidCursorError

Item = TypeVar("Item")

Limit = Annotated[int, Query(ge=1, le=1000, description="maximum number of items")]
After = Annotated[str | None, Query(max_length=500, description="`next` of the previous page")]


class Cursor(BaseModel):
    """The key of the last item of a page. Clients receive it as an opaque string."""

    model_config = ConfigDict(from_attributes=True)

    def encode(self) -> str:
        return urlsafe_b64encode(self.model_dump_json().encode()).decode().rstrip("=")

    @classmethod
    def decode(cls, text: str | None) -> Self | None:
        """Return the cursor that `text` encodes; None for None.

        Raises:
            InvalidCursorError: the text is not a `next` of this listing.
        """
        if text is None:
            return None
        try:
            return cls.model_validate_json(urlsafe_b64decode(text + "=" * (-len(text) % 4)))
        except ValueError:
            raise InvalidCursorError(
                "`after` must be the `next` of a page of this listing."
            ) from None


class Page(BaseModel, Generic[Item]):
    items: list[Item]
    next: str | None = None

    @classmethod
    def from_rows(cls, rows: Sequence[Row[Any]], limit: int, cursor: type[Cursor]) -> Self:
        """Return the first `limit` rows as a page; one row more means that a next page exists."""
        if not rows:
            return cls(items=[])
        fields = rows[0]._fields  # reading the attributes of a row takes three times as long
        items = [dict(zip(fields, row, strict=True)) for row in rows[:limit]]
        next_ = cursor.model_validate(items[-1]).encode() if len(rows) > limit else None
        return cls.model_validate({"items": items, "next": next_})
