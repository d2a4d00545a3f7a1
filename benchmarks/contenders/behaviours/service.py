"""The rendered service with the routes that test the behaviours."""

from app.dependencies import SessionDep
from app.main import create_app

from benchmarks.contenders.behaviours.routes import add_routes

app = create_app()
add_routes(app, SessionDep)
