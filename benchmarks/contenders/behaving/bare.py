"""By hand: `begin()`, and `scope="function"`."""

from benchmarks.contenders.bare import Session, app
from benchmarks.contenders.behaving.routes import add_routes

add_routes(app, Session)
