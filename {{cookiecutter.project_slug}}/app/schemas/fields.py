"""Kinds of fields that several schemas share."""

from datetime import UTC, datetime
from typing import Annotated

from pydantic import AfterValidator, AwareDatetime, JsonValue, StringConstraints
from pydantic_core import PydanticSerializationError, to_json


def _to_utc(value: datetime) -> datetime:
    try:
        return value.astimezone(UTC)
    except OverflowError:
        raise ValueError("this point in time is outside the years 1 to 9999 in UTC") from None


def _can_be_shown(value: dict[str, JsonValue]) -> dict[str, JsonValue]:
    try:
        to_json([[[[value]]]])  # an answer nests it once more, or a few times
    except PydanticSerializationError as error:
        if "depth" in str(error):
            raise ValueError("it is nested too deeply: 200 levels are accepted") from None
        raise ValueError("half of a surrogate pair is no character") from None
    return value


JsonObject = Annotated[dict[str, JsonValue], AfterValidator(_can_be_shown)]

# PostgreSQL cannot store the character NUL in a text.
Name = Annotated[
    str,
    StringConstraints(strip_whitespace=True, min_length=1, max_length=200, pattern=r"^[^\x00]*$"),
]
UtcTime = Annotated[AwareDatetime, AfterValidator(_to_utc)]
