"""Shared by all tables: a declarative base per database, constraint names, times in UTC."""

from datetime import UTC, datetime
from typing import Any

from sqlalchemy import DateTime, Dialect, MetaData, TypeDecorator, event
from sqlalchemy.orm import DeclarativeBase, Mapper

# A migration cannot drop a constraint that has no name.
# https://alembic.sqlalchemy.org/en/latest/naming.html
NAMING_CONVENTION = {
    "ix": "ix_%(table_name)s_%(column_0_N_name)s",
    "uq": "uq_%(table_name)s_%(column_0_N_name)s",
    "ck": "ck_%(table_name)s_%(constraint_name)s",
    "fk": "fk_%(table_name)s_%(column_0_N_name)s_%(referred_table_name)s",
    "pk": "pk_%(table_name)s",
}


class PrimaryBase(DeclarativeBase):
    """Tables of the primary database."""

    metadata = MetaData(naming_convention=NAMING_CONVENTION)


# {% if cookiecutter.__analytics %}
class AnalyticsBase(DeclarativeBase):
    """Tables of the analytics database."""

    metadata = MetaData(naming_convention=NAMING_CONVENTION)


# {% endif %}
METADATA = {
    "primary": PrimaryBase.metadata,
    # {% if cookiecutter.__analytics %}
    "analytics": AnalyticsBase.metadata,
    # {% endif %}
}


class UtcDateTime(TypeDecorator[datetime]):
    """A timezone-aware datetime in UTC on every database. A naive datetime raises ValueError."""

    impl = DateTime(timezone=True)
    cache_ok = True

    def process_bind_param(self, value: datetime | None, dialect: Dialect) -> datetime | None:
        if value is None:
            return None
        if value.tzinfo is None:
            raise ValueError(f"{value!r} has no time zone: use datetime.now(UTC)")
        return value.astimezone(UTC)

    def process_result_value(self, value: datetime | None, dialect: Dialect) -> datetime | None:
        if value is None or value.tzinfo is UTC:
            return value
        # SQLite stores no time zone; the stored value is UTC.
        return value.replace(tzinfo=UTC) if value.tzinfo is None else value.astimezone(UTC)


def utc_now() -> datetime:
    return datetime.now(UTC)


@event.listens_for(Mapper, "mapper_configured")
def _refuse_implicit_loading(mapper: Mapper[Any], _: type) -> None:
    """Refuse relationships with implicit lazy loading, which does not work in asyncio."""
    for relationship in mapper.relationships:
        if relationship.lazy == "select":
            raise TypeError(
                f"{relationship} would be loaded when touched, which raises MissingGreenlet: "
                'write relationship(lazy="raise") and load it with selectinload() where needed'
            )
