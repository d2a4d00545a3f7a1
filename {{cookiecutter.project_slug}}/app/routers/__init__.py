"""Routes: a table of contents, one line each."""
