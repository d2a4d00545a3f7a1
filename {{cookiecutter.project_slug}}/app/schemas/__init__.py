"""Pydantic models of requests and responses. Start reading in `user.py`."""
