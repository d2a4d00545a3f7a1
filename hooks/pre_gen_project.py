"""Refuse invalid answers of a replay file (others are refused earlier), and mark a new project."""

import json
import sys
from pathlib import Path

COMPLAINT = json.loads(r""" {{ cookiecutter | complaint | tojson }} """)

if COMPLAINT:
    sys.exit(COMPLAINT)
if not any(Path().iterdir()):
    Path(".new-project").touch()  # the other hook may remove leftovers: the owner has no files yet
