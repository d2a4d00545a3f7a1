"""Tables, one file each. What is not imported here is unknown to the migrations."""

from app.models.base import METADATA as METADATA  # {%- if cookiecutter.__analytics +%}
from app.models.event import Event as Event  # {%- endif +%}
from app.models.user import User as User
