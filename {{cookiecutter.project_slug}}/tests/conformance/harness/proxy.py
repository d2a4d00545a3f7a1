"""A TCP proxy between the service and PostgreSQL that simulates network failures."""

import asyncio
from contextlib import suppress

from sqlalchemy import make_url

from tests.conformance.harness.address import address


class Proxy:
    """A proxy to the server of a URL, which runs until the end of its block. It counts round trips."""

    url: str

    def __init__(self, url: str) -> None:
        self._server_url = make_url(url)
        self._pumps: list[asyncio.Task[None]] = []
        self._clients: list[asyncio.StreamReader] = []
        self._writers: list[asyncio.StreamWriter] = []
        self._lost_query = b""
        self._stalling_query = b""
        self._is_delivered = False
        self._is_waiting = False  # for the server's response
        self._is_holding = False
        self._kept_open: list[asyncio.StreamWriter] = []
        self.ended = 0  # connections that the server has closed, and that are kept open
        self.latency = 0.0  # seconds that each message takes, in each direction
        self.round_trips = 0
        self.discarded = b""

    def cut(self) -> None:
        """Stop forwarding on the current connections, without closing them.

        A firewall that drops idle connections does this. `discarded` has what the clients send then.
        """
        stopped = [pump for pump in self._pumps if pump.cancel()]
        self._pumps += [
            asyncio.create_task(self._discard(reader, stopped)) for reader in self._clients
        ]
        self._clients = []

    def move(self, url: str) -> None:
        """Forward new connections to another server, as after a DNS change."""
        self._server_url = make_url(url)

    def hold(self) -> None:
        """Accept new connections, but do not forward anything."""
        self._is_holding = True

    def keep_open(self) -> None:
        """Do not close the current connections when the server closes its side."""
        self._kept_open = [*self._writers]

    def lose(self, query: bytes, *, is_delivered: bool) -> None:
        """Close the next connection that sends this query, before or after the server receives it.

        The client cannot know which of the two happened.
        """
        self._lost_query, self._is_delivered = query, is_delivered

    def stall(self, query: bytes) -> None:
        """Stop forwarding, without closing anything, once a connection sends this query."""
        self._stalling_query = query

    async def __aenter__(self) -> "Proxy":
        self._listener = await asyncio.start_server(self._accept, "127.0.0.1", 0)
        _, port = self._listener.sockets[0].getsockname()
        here = self._server_url.set(host="127.0.0.1", port=port)
        here = here.difference_update_query(["host", "port"])
        self.url = here.render_as_string(hide_password=False)
        return self

    async def __aexit__(self, *_: object) -> None:
        self._listener.close()
        for pump in self._pumps:
            pump.cancel()
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
        self._clients.append(reader)
        for pump in (
            self._pump_queries(reader, server_writer, writer),
            self._pump_responses(server_reader, writer),
        ):
            self._pumps.append(asyncio.create_task(pump))

    async def _pump_queries(
        self,
        client: asyncio.StreamReader,
        server: asyncio.StreamWriter,
        responses: asyncio.StreamWriter,
    ) -> None:
        with suppress(OSError):
            while data := await client.read(65536):
                self.round_trips += not self._is_waiting
                self._is_waiting = True
                await asyncio.sleep(self.latency)
                if self._stalling_query and self._stalling_query in data:
                    self.hold()
                    self.cut()
                is_lost = self._lost_query and self._lost_query in data
                if not is_lost or self._is_delivered:
                    server.write(data)
                if is_lost:
                    self._lost_query = b""
                    responses.close()
                    break
        server.close()

    async def _pump_responses(
        self, server: asyncio.StreamReader, client: asyncio.StreamWriter
    ) -> None:
        with suppress(OSError):
            while data := await server.read(65536):
                self._is_waiting = False
                await asyncio.sleep(self.latency)
                client.write(data)
        if client in self._kept_open:
            self.ended += 1
        else:
            client.close()

    async def _discard(
        self, client: asyncio.StreamReader, stopped: list[asyncio.Task[None]]
    ) -> None:
        if stopped:
            await asyncio.wait(stopped)
        with suppress(OSError):
            while data := await client.read(65536):
                self.discarded += data

    async def _connect(self) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        host, port = address(self._server_url)
        if host.startswith("/"):
            return await asyncio.open_unix_connection(f"{host}/.s.PGSQL.{port}")
        return await asyncio.open_connection(host, port)
