"""fastapi-utils: FastAPISessionMaker commits. fastapi-restful's is the same, line by line."""

from benchmarks.contenders.behaving.routes import add_sync_routes
from benchmarks.contenders.fastapi_utils_sessionmaker import Db, app

add_sync_routes(app, Db)
