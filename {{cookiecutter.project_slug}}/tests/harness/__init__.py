"""The PostgreSQL server of a test run, and its databases. Read plugin.py first: it starts keeper.py."""
