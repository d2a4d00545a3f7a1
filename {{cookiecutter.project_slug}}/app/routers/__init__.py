"""HTTP routes. Each calls one method of a service. Start reading in `users.py`."""

API_PREFIX = ""  # of the paths of all routers except health and docs. Example: "/api/v1"
