"""SQLModel, as in its tutorial and in full-stack-fastapi-template: the route commits."""

from benchmarks.contenders.behaviours.routes import add_sync_routes
from benchmarks.contenders.sqlmodel_sync import SessionDep, app

add_sync_routes(app, SessionDep, lambda session: session.commit())
