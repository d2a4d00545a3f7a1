"""Runs uvicorn on IPv4 and IPv6 sockets. With several workers, uvicorn itself binds only one of them."""

import errno
import logging
import socket
from contextlib import suppress
from typing import Any

import uvicorn
from uvicorn.supervisors import ChangeReload, Multiprocess

from app.core.database.errors import ConfigurationError

NO_SUCH_ADDRESS = {errno.EADDRNOTAVAIL, errno.EAFNOSUPPORT}  # a machine without IPv6, for example

logger = logging.getLogger(__name__)


def run(config: uvicorn.Config) -> None:
    """Serve until SIGTERM or SIGINT.

    Raises:
        ConfigurationError: the host has no such address, or the port is in use.
    """
    sockets = _bind(config.host, config.port)
    for each in sockets:
        logger.info("Listening on %s, port %s", *each.getsockname()[:2])
    server = uvicorn.Server(config)
    with suppress(KeyboardInterrupt):
        if config.should_reload:
            ChangeReload(config, target=server.run, sockets=sockets).run()
        elif config.workers > 1:
            Multiprocess(config, sockets=sockets).run()
        else:
            server.run(sockets=sockets)


def _bind(host: str, port: int) -> list[socket.socket]:
    """Return a socket for each address of the host. `::` means all addresses, IPv4 and IPv6."""
    sockets: list[socket.socket] = []
    reason: str | None = None
    try:
        found = socket.getaddrinfo(
            None if host == "::" else host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )
        for family, *_, address in found:
            try:
                sockets.append(_bound(family, (address[0], port, *address[2:])))
                port = sockets[0].getsockname()[1]  # of port 0: the same one for both versions
            except OSError as error:
                if error.errno not in NO_SUCH_ADDRESS:
                    raise
                reason = error.strerror
    except OSError as error:
        sockets, reason = [], error.strerror
    if not sockets:
        raise ConfigurationError(
            f"cannot listen on {host}, port {port}: {reason}: set PORT, or --host"
        )
    return sockets


def _bound(family: int, address: tuple[Any, ...]) -> socket.socket:
    bound = socket.socket(family)
    bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    if family == socket.AF_INET6:
        bound.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
    bound.bind(address)
    bound.set_inheritable(True)
    return bound
