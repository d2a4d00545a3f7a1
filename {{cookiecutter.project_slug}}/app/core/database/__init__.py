"""Implementation of `core/db.py`: settings, engines, pools and sessions. Start reading in `session.py`.

Imports no web framework.
"""
