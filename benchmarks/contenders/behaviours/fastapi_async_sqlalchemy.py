"""fastapi-async-sqlalchemy: the session of its middleware, with `commit_on_exit`."""

from typing import Annotated

from fastapi import Depends, FastAPI
from fastapi_async_sqlalchemy import SQLAlchemyMiddleware, db
from sqlalchemy.ext.asyncio import AsyncSession

from benchmarks.contenders.behaviours.routes import add_routes
from benchmarks.contenders.users import ASYNC_URL

app = FastAPI()
app.add_middleware(
    SQLAlchemyMiddleware,
    db_url=ASYNC_URL,
    engine_args={
        "pool_pre_ping": True,
        "pool_size": 5,
        "max_overflow": 10,
    },  # from its documentation
    commit_on_exit=True,
)


async def get_session() -> AsyncSession:
    return db.session


add_routes(app, Annotated[AsyncSession, Depends(get_session)], in_stream=lambda _: db.session)
