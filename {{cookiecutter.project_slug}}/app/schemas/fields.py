"""Kinds of fields that several schemas share."""

from datetime import UTC, datetime
from typing import Annotated

from pydantic import AfterValidator, AwareDatetime, StringConstraints


def _to_utc(value: datetime) -> datetime:
    try:
        return value.astimezone(UTC)
    except OverflowError:
        raise ValueError("this point in time is outside the years 1 to 9999 in UTC") from None


# PostgreSQL cannot store the character NUL in a text.
Name = Annotated[
    str,
    StringConstraints(strip_whitespace=True, min_length=1, max_length=200, pattern=r"^[^\x00]*$"),
]
UtcTime = Annotated[AwareDatetime, AfterValidator(_to_utc)]
