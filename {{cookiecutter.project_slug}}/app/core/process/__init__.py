"""Logging, graceful shutdown and garbage collection of the process."""
