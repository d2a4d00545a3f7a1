"""HTTP routes. Each calls one method of a service. Start reading in `users.py`."""

API_PREFIX = ""  # of all paths except those of health and docs. Example: "/api/v1"
