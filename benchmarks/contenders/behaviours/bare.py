"""Hand-written: `begin()`, and `scope="function"`."""

from benchmarks.contenders.bare import Session, app
from benchmarks.contenders.behaviours.routes import add_routes

add_routes(app, Session)
