"""ASGI middleware, error responses and streaming. Start reading in `problem_details.py`."""
