"""ASGI middleware, error responses and streaming. Start reading in `error_handlers.py`."""
