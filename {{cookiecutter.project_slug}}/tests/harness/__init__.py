"""Test infrastructure: the PostgreSQL server of a run, its databases, and a pytest plugin.

Start reading in plugin.py, which starts keeper.py.
"""
