"""A network between the service and PostgreSQL that can fail as networks do."""

import asyncio
from contextlib import suppress

from sqlalchemy import make_url

from tests.harness.connections import address


class Proxy:
    """Another way to the server of a URL, as long as its block lasts. It counts the round trips."""

    url: str

    def __init__(self, url: str) -> None:
        self._server_url = make_url(url)
        self._pumps: list[asyncio.Task[None]] = []
        self._writers: list[asyncio.StreamWriter] = []
        self._lost_query = b""
        self._is_delivered = False
        self._is_asked = False
        self._is_holding = False
        self.round_trips = 0

    def cut(self) -> None:
        """Pass nothing on any more of what is connected now, and tell neither side.

        A firewall does that which has forgotten about a connection.
        """
        for pump in self._pumps:
            pump.cancel()

    def move(self, url: str) -> None:
        """Let what connects from now on reach another server, as a name does that has moved."""
        self._server_url = make_url(url)

    def hold(self) -> None:
        """Accept connections from now on, and pass nothing on."""
        self._is_holding = True

    def lose(self, query: bytes, *, is_delivered: bool) -> None:
        """Close the next connection that sends this query: before the server gets it, or after.

        The client cannot tell which.
        """
        self._lost_query, self._is_delivered = query, is_delivered

    async def __aenter__(self) -> "Proxy":
        self._listener = await asyncio.start_server(self._accept, "127.0.0.1", 0)
        _, port = self._listener.sockets[0].getsockname()
        here = self._server_url.set(host="127.0.0.1", port=port)
        here = here.difference_update_query(["host", "port"])
        self.url = here.render_as_string(hide_password=False)
        return self

    async def __aexit__(self, *_: object) -> None:
        self._listener.close()
        self.cut()
        for writer in self._writers:
            writer.close()
        closed = (writer.wait_closed() for writer in self._writers)
        await asyncio.gather(*self._pumps, *closed, return_exceptions=True)

    async def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if self._is_holding:
            self._writers.append(writer)
            return
        server_reader, server_writer = await self._connect()
        self._writers += [writer, server_writer]
        for pump in (
            self._pump_queries(reader, server_writer, writer),
            self._pump_answers(server_reader, writer),
        ):
            self._pumps.append(asyncio.create_task(pump))

    async def _pump_queries(
        self,
        client: asyncio.StreamReader,
        server: asyncio.StreamWriter,
        answers: asyncio.StreamWriter,
    ) -> None:
        with suppress(OSError):
            while data := await client.read(65536):
                self.round_trips += not self._is_asked
                self._is_asked = True
                is_lost = self._lost_query and self._lost_query in data
                if not is_lost or self._is_delivered:
                    server.write(data)
                if is_lost:
                    self._lost_query = b""
                    answers.close()
                    break
        server.close()

    async def _pump_answers(
        self, server: asyncio.StreamReader, client: asyncio.StreamWriter
    ) -> None:
        with suppress(OSError):
            while data := await server.read(65536):
                self._is_asked = False
                client.write(data)
        client.close()

    async def _connect(self) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        host, port = address(self._server_url)
        if host.startswith("/"):
            return await asyncio.open_unix_connection(f"{host}/.s.PGSQL.{port}")
        return await asyncio.open_connection(host, port)
