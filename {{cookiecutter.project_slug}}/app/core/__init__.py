"""Infrastructure for all layers. It imports nothing else from `app`. Start reading in `db.py`."""
