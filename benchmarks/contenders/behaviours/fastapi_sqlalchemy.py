"""fastapi-sqlalchemy: the session of its middleware, with `commit_on_exit`."""

from typing import Annotated

from fastapi import Depends, FastAPI
from fastapi_sqlalchemy import DBSessionMiddleware, db
from sqlalchemy.orm import Session

from benchmarks.contenders.behaviours.routes import add_sync_routes
from benchmarks.contenders.users import POOL, SYNC_URL

app = FastAPI()
app.add_middleware(DBSessionMiddleware, db_url=SYNC_URL, engine_args=POOL, commit_on_exit=True)


async def get_session() -> Session:
    return db.session


add_sync_routes(app, Annotated[Session, Depends(get_session)], in_stream=lambda _: db.session)
