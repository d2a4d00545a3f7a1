"""Refuse bad answers of a replay file (others are refused earlier), and note whether the folder is new."""

import json
import sys
from pathlib import Path

COMPLAINT = json.loads(r""" {{ cookiecutter | complaint | tojson }} """)

if COMPLAINT:
    sys.exit(COMPLAINT)
if not any(Path().iterdir()):
    Path(".new-project").touch()  # tells the other hook that no file here is the owner's
