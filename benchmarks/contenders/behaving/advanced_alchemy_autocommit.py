"""Advanced Alchemy: `commit_mode="autocommit"`, and the session that `provide_session` gives."""

from benchmarks.contenders.advanced_alchemy_autocommit import Session, app
from benchmarks.contenders.behaving.routes import add_routes

add_routes(app, Session)
