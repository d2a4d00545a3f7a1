"""FastAPI-template (s3rius) with SQLAlchemy: a commit in `finally`.

It does the same as the rendered `db/dependencies.py`.
"""

from collections.abc import AsyncIterator
from typing import Annotated

from fastapi import Depends, FastAPI
from sqlalchemy.ext.asyncio import AsyncSession, async_sessionmaker, create_async_engine

from benchmarks.contenders.behaviours.routes import add_routes
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
