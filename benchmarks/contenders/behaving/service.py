"""The service as it is rendered, with the routes that go wrong."""

from app.dependencies import SessionDep
from app.main import app

from benchmarks.contenders.behaving.routes import add_routes

add_routes(app, SessionDep)
