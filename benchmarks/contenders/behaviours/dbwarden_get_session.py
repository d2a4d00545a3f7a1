"""DBWarden: its dependency opens and closes the session, and the route commits."""

from benchmarks.contenders.behaviours.routes import add_routes, commit_in_route
from benchmarks.contenders.dbwarden_get_session import Session, app

add_routes(app, Session, commit_in_route)
