"""Refuse what a replay file brings, all else is checked before; note whether the folder is new."""

import json
import sys
from pathlib import Path

COMPLAINT = json.loads(r""" {{ cookiecutter | complaint | tojson }} """)

if COMPLAINT:
    sys.exit(COMPLAINT)
if not any(Path().iterdir()):
    Path(".new-project").touch()  # tells the other hook that nothing here is somebody's work
