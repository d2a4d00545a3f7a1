"""The address of the server at a database URL."""

from sqlalchemy import URL

from tests.harness.connections import connection_parameters


def address(url: URL) -> tuple[str, int]:
    """Return the host, or the folder of the Unix socket, and the port of the URL's first server."""
    parameters = connection_parameters(url)
    host, port = parameters.get("host", "localhost"), parameters.get("port", 5432)
    if isinstance(host, list):
        host = host[0]
    if isinstance(port, list):
        port = port[0]
    return host, int(port)
