"""DBWarden: its session is opened and closed, so that the route commits."""

from benchmarks.contenders.behaving.routes import add_routes, commit_by_hand
from benchmarks.contenders.dbwarden_get_session import Session, app

add_routes(app, Session, commit_by_hand)
