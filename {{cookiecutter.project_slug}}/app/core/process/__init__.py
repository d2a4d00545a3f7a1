"""The process: logging, graceful shutdown, garbage collection. Start reading in `shutdown.py`."""
