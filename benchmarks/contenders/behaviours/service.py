"""The rendered service with the routes that test the behaviours."""

from app.dependencies import SessionDep
from app.main import app

from benchmarks.contenders.behaviours.routes import add_routes

add_routes(app, SessionDep)
