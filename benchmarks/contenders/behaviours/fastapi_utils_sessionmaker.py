"""fastapi-utils: FastAPISessionMaker, which commits. fastapi-restful has the same code."""

from benchmarks.contenders.behaviours.routes import add_sync_routes
from benchmarks.contenders.fastapi_utils_sessionmaker import Db, app

add_sync_routes(app, Db)
