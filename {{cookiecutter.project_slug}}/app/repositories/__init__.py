"""SQL statements, one class per table. A repository never commits. Start reading in `user.py`."""
