"""Field types that several schemas share."""

from datetime import UTC, datetime
from typing import Annotated

from pydantic import AfterValidator, AwareDatetime, JsonValue, StringConstraints
from pydantic_core import PydanticSerializationError, to_json


def _to_utc(value: datetime) -> datetime:
    try:
        return value.astimezone(UTC)
    except OverflowError:
        raise ValueError("this point in time is outside the years 1 to 9999 in UTC") from None


def _is_serializable(value: dict[str, JsonValue]) -> dict[str, JsonValue]:
    try:
        to_json([[[[value]]]])  # a response nests the value up to four levels deeper
    except PydanticSerializationError as error:
        if "depth" in str(error):
            raise ValueError("it is nested too deeply: 200 levels are accepted") from None
        raise ValueError("an unpaired surrogate is not a character") from None
    return value


JsonObject = Annotated[dict[str, JsonValue], AfterValidator(_is_serializable)]

# PostgreSQL cannot store NUL characters in text.
Name = Annotated[
    str,
    StringConstraints(strip_whitespace=True, min_length=1, max_length=200, pattern=r"^[^\x00]*$"),
]
UtcTime = Annotated[AwareDatetime, AfterValidator(_to_utc)]
