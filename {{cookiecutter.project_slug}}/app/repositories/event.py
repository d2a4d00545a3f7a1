"""SQL statements for events."""

from collections.abc import AsyncGenerator, Sequence
from typing import Any, cast
from uuid import UUID

from sqlalchemy import (
    ARRAY,
    BindParameter,
    Column,
    Integer,
    Row,
    Select,
    String,
    Table,
    Uuid,
    bindparam,
    column,
    func,
    insert,
    literal,
    select,
    values,
)
from sqlalchemy.ext.asyncio import AsyncSession

from app.core.db import prepared
from app.models.event import Event

MAX_COUNT = 10_000  # events that are counted per user
CHUNK_SIZE = 1_000  # rows of an export

EVENTS = cast("Table", Event.__table__)
WRITTEN = [column for column in EVENTS.columns if not column.primary_key]

ROWS = select(EVENTS)
_PAGE = ROWS.order_by(EVENTS.c.id).limit(bindparam("limit", type_=Integer))
PAGE = prepared(_PAGE)
NEXT_PAGE = prepared(_PAGE.where(EVENTS.c.id > bindparam("after")))
ALL = ROWS.order_by(EVENTS.c.id).execution_options(yield_per=CHUNK_SIZE)

INSERT = insert(EVENTS)


def _array(column: Column[Any]) -> BindParameter[Any]:
    # A cast to VARCHAR(200) would truncate a longer value; the column refuses it.
    item = String() if isinstance(column.type, String) else column.type
    return bindparam(column.name, type_=ARRAY(item, dimensions=1))


# On PostgreSQL: one array parameter per column, not one parameter per value. As fast as COPY.
INSERT_COLUMNS = INSERT.from_select(WRITTEN, select(*(func.unnest(_array(c)) for c in WRITTEN)))


class EventRepository:
    def __init__(self, session: AsyncSession) -> None:
        self.session = session

    async def add_all(self, events: Sequence[dict[str, Any]]) -> None:
        """Insert events. Each dict has a value for every column except the id."""
        if self.session.get_bind().dialect.name == "postgresql":
            columns = {c.name: [event[c.name] for event in events] for c in WRITTEN}
            await self.session.execute(INSERT_COLUMNS, columns)
        else:
            await self.session.execute(INSERT, events)

    async def page(self, limit: int, after: int | None) -> Sequence[Row[Any]]:
        """Return events in the order of their ids, starting after the id `after`."""
        if after is None:
            return await PAGE.all(self.session, limit=limit)
        return await NEXT_PAGE.all(self.session, limit=limit, after=after)

    async def all(self) -> AsyncGenerator[Sequence[Row[Any]], None]:
        """Yield all events in the order of their ids, in chunks from a server-side cursor."""
        rows = await self.session.stream(ALL)
        async for some in rows.partitions():
            yield some

    async def count_by_user(self, user_ids: Sequence[UUID]) -> dict[UUID, int]:
        """Return the number of events of each user, `MAX_COUNT` at most."""
        if not user_ids:
            return {}
        rows = (await self.session.execute(_counts(user_ids))).all()
        return {row[0]: row[1] for row in rows}


def _counts(user_ids: Sequence[UUID]) -> Select[UUID, int]:
    """Return a statement that reads at most `MAX_COUNT` index entries per user."""
    requested = values(column("id", Uuid), name="users").data([(user_id,) for user_id in user_ids])
    users = requested.cte("users")
    some = select(literal(1)).where(EVENTS.c.user_id == users.c.id).limit(MAX_COUNT)
    count = select(func.count()).select_from(some.correlate(users).subquery())
    return select(users.c.id, count.correlate(users).scalar_subquery())
