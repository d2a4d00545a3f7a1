"""HTTP routes. Each calls one method of a service. Start reading in `users.py`."""
