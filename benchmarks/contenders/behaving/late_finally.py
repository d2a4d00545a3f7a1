"""What s3rius/FastAPI-template renders for SQLAlchemy: a commit in `finally`.

Its `db/dependencies.py`, in words of our own.
"""

from collections.abc import AsyncIterator
from typing import Annotated

from fastapi import Depends, FastAPI
from sqlalchemy.ext.asyncio import AsyncSession, async_sessionmaker, create_async_engine

from benchmarks.contenders.behaving.routes import add_routes
from benchmarks.contenders.users import ASYNC_URL

sessions = async_sessionmaker(create_async_engine(ASYNC_URL), expire_on_commit=False)


async def get_session() -> AsyncIterator[AsyncSession]:
    session = sessions()
    try:
        yield session
    finally:
        await session.commit()
        await session.close()


app = FastAPI()
add_routes(app, Annotated[AsyncSession, Depends(get_session)])
