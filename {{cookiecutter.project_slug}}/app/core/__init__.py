"""Infrastructure shared by all layers. Imports nothing else from `app`. Start reading in `db.py`."""
