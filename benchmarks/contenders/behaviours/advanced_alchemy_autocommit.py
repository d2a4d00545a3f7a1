"""Advanced Alchemy: `commit_mode="autocommit"`, and the session of `provide_session`."""

from benchmarks.contenders.advanced_alchemy_autocommit import Session, app
from benchmarks.contenders.behaviours.routes import add_routes

add_routes(app, Session)
