"""What the tests stand on: a server, databases on it, and what pytest must know of both."""
