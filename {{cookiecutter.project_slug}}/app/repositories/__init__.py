"""SQL, in sight. A repository takes a session and flushes; it never commits."""
