"""Functions that several tests of the reference use."""

from contextlib import suppress
from typing import Any

import pytest
from httpx2 import Response
from sqlalchemy import ForeignKey
from sqlalchemy.orm import DeclarativeBase, Mapped, configure_mappers, mapped_column, relationship

from app.core.db import session_scope
from app.models import METADATA


async def create_tables(base: type[DeclarativeBase], database: str | None = None) -> None:
    """Create the tables of an example, which has no migration."""
    async with session_scope(database) as session:
        await (await session.connection()).run_sync(base.metadata.create_all)


def raise_file_limit(wanted: int = 4096) -> None:
    """Raise the limit of open files and sockets of this process, at most to its hard limit."""
    with suppress(ImportError):  # Windows has no such limit
        import resource  # noqa: PLC0415

        soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
        if hard != resource.RLIM_INFINITY:
            wanted = min(wanted, hard)
        if soft != resource.RLIM_INFINITY and soft < wanted:
            resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))


def is_unavailable(response: Response) -> bool:
    """Return whether the response is 503 and asks the client to retry after a second."""
    return (503, "1") == (response.status_code, response.headers.get("retry-after"))


def relate(*, is_own: bool = True, **options: Any) -> None:
    """Configure a relationship with these options: of the service's models, or of a library's."""

    class Base(DeclarativeBase):
        pass

    class Parent(Base):  # configured first
        __tablename__ = "parents"
        id: Mapped[int] = mapped_column(primary_key=True)

    class Child(Base):
        __tablename__ = "children"
        id: Mapped[int] = mapped_column(primary_key=True)
        parent_id: Mapped[int] = mapped_column(ForeignKey("parents.id"))
        parent: Mapped[Any] = relationship("Parent", **options)

    try:
        with pytest.MonkeyPatch.context() as patch:
            if is_own:
                patch.setitem(METADATA, "children", Base.metadata)
            configure_mappers()
    finally:
        Base.registry.dispose()
