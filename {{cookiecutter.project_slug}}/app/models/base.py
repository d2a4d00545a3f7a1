"""Shared by all tables: a declarative base per database, constraint names, enum types, times in UTC."""

import enum
from datetime import UTC, datetime
from typing import Any, Literal

from sqlalchemy import DateTime, Dialect, Enum, MetaData, TypeDecorator, event
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

# An enum is a VARCHAR without a CHECK constraint: a new member needs no revision on any database.
VARCHAR_ENUM = Enum(enum.Enum, native_enum=False, length=50)
TYPES: dict[Any, Any] = {enum.Enum: VARCHAR_ENUM, Literal: VARCHAR_ENUM}


class PrimaryBase(DeclarativeBase):
    """Tables of the primary database."""

    metadata = MetaData(naming_convention=NAMING_CONVENTION)
    type_annotation_map = TYPES


# {% if cookiecutter.__analytics %}
class AnalyticsBase(DeclarativeBase):
    """Tables of the analytics database."""

    metadata = MetaData(naming_convention=NAMING_CONVENTION)
    type_annotation_map = TYPES


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


@event.listens_for(Mapper, "after_configured")
def _refuse_implicit_loading() -> None:
    """Refuse relationships with implicit lazy loading, which does not work in asyncio."""
    mappers = [m for base in DeclarativeBase.__subclasses__() for m in base.registry.mappers]
    tables = {table for metadata in METADATA.values() for table in metadata.tables.values()}
    own = [mapper for mapper in mappers if tables.intersection(mapper.tables)]
    for relationship in (relationship for mapper in own for relationship in mapper.relationships):
        if relationship.lazy in {"select", True, "dynamic"}:
            raise TypeError(
                f"{relationship} would be loaded when touched, which raises MissingGreenlet: "
                'write relationship(lazy="raise") and load it with selectinload() where needed'
            )
