"""Tables, one module each. Import a new one here, or Alembic does not see it. See `base.py`."""

from app.models.base import METADATA as METADATA  # {%- if cookiecutter.__analytics +%}
from app.models.event import Event as Event  # {%- endif +%}
from app.models.user import User as User
