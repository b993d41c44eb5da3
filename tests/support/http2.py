"""An HTTP/2 client (h2) that shows what came over the wire: each request's answer, and its end.

Laws of this file:

* Requests of one connection run side by side, piece by piece: their frames are mixed.
* It keeps to the windows, and opens its own as it reads.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterable, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from typing import Any

import h2.config
import h2.connection
import h2.events
import h2.exceptions

from .sockets import Client, connected

MAX_FRAME = 16_384
"""What a frame may carry when nothing else was agreed (RFC 9113, 6.5.2)."""


@dataclass
class Exchange:
    """A request and what became of it.

    Args:
        method: its method.
        target: path and query.
        headers: more headers.
        pieces: of its body, each a frame or several; none for a request that ends with its head.

    Attributes:
        status: of the answer; 0 while there is none.
        answer_headers: its headers.
        body: what has come of it.
        ended: ``"complete"``, ``"reset"``, or nothing while it lasts.
    """

    method: str
    target: str
    headers: Sequence[tuple[str, str]] = ()
    pieces: Sequence[bytes] = ()
    status: int = 0
    answer_headers: list[tuple[bytes, bytes]] = field(default_factory=list)
    body: bytes = b""
    ended: str = ""


class Http2Client:
    """One connection.

    Attributes:
        closed: the server has closed it, or said that it will.
    """

    def __init__(self, connection: Client) -> None:
        self._connection = connection
        # What a server must refuse is a test's to send, and what it must not send to be seen.
        settings = h2.config.H2Configuration(
            client_side=True,
            header_encoding=None,
            validate_outbound_headers=False,
            normalize_outbound_headers=False,
            validate_inbound_headers=False,
        )
        self._h2 = h2.connection.H2Connection(settings)
        self._h2.initiate_connection()
        self._exchanges: dict[int, Exchange] = {}
        self._unsent: dict[int, list[bytes]] = {}
        self.closed = False

    async def run(self, exchanges: Iterable[Exchange]) -> None:
        """Send requests, side by side, and read until each has ended."""
        for exchange in exchanges:
            self._begin(exchange)
        while not self.closed and not all(one.ended for one in self._exchanges.values()):
            while self._send_some():
                await self._flush()
            await self._flush()
            data = await self._connection.receive()
            if not data:
                break
            self._take(data)
        for one in self._exchanges.values():
            one.ended = one.ended or "hung up"

    def _begin(self, exchange: Exchange) -> None:
        stream = self._h2.get_next_available_stream_id()
        headers = [
            (":method", exchange.method),
            (":scheme", "http"),
            (":authority", "test"),
            (":path", exchange.target),
            *exchange.headers,
        ]
        encoded = [(name.encode(), value.encode("latin-1")) for name, value in headers]
        self._h2.send_headers(stream, encoded, end_stream=not exchange.pieces)
        self._exchanges[stream] = exchange
        if exchange.pieces:
            self._unsent[stream] = list(exchange.pieces)

    def _send_some(self) -> bool:
        """Send a frame of every body that may go on; whether there was any."""
        found = False
        for stream, pieces in list(self._unsent.items()):
            if self._exchanges[stream].ended:
                del self._unsent[stream]
                continue
            room = min(self._h2.local_flow_control_window(stream), MAX_FRAME)
            if pieces[0] and not room:
                continue
            found = True
            data, rest = pieces[0][:room], pieces[0][room:]
            pieces[:1] = [rest] if rest else []
            self._h2.send_data(stream, data, end_stream=not pieces)
            if not pieces:
                del self._unsent[stream]
        return found

    async def _flush(self) -> None:
        if data := self._h2.data_to_send():
            with suppress(OSError):
                await self._connection.send(data)

    def _take(self, data: bytes) -> None:
        for event in self._h2.receive_data(data):
            exchange: Any = self._exchanges.get(getattr(event, "stream_id", 0) or 0)
            if isinstance(event, h2.events.ConnectionTerminated):
                self.closed = True
            elif isinstance(event, h2.events.ResponseReceived):
                headers = [(bytes(name), bytes(value)) for name, value in event.headers or ()]
                exchange.status = int(dict(headers)[b":status"])
                exchange.answer_headers = [pair for pair in headers if pair[0] != b":status"]
            elif isinstance(event, h2.events.DataReceived):
                exchange.body += event.data
                with suppress(h2.exceptions.StreamClosedError):
                    self._h2.acknowledge_received_data(
                        event.flow_controlled_length or 0, event.stream_id
                    )
            elif isinstance(event, h2.events.StreamEnded):
                exchange.ended = "complete"
            elif isinstance(event, h2.events.StreamReset) and not exchange.ended:
                exchange.ended = "reset"


@asynccontextmanager
async def http2_connected(port: int) -> AsyncIterator[Http2Client]:
    """A client of a server that speaks HTTP/2 in plain text, with prior knowledge."""
    async with connected(port) as connection:
        yield Http2Client(connection)
