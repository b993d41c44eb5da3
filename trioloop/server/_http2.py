"""Hypercorn's HTTP/2, with its faults mended.

The laws of this file:

* Nothing is written here that Hypercorn does well: frames, streams and the sending task are its
  own. What is replaced stands beside the fault that it replaces.
* What a client does wrong ends its stream, or its connection, and nothing else.
* A response is never further ahead of its client than a stream's buffer, a request never further
  ahead of its application than the stream's window (RFC 9113, 5.2).

There are no WebSockets over HTTP/2 (RFC 8441): a client that wants one opens a connection of
HTTP/1.1 for it, and has all that ``_websocket.py`` does.
"""

from __future__ import annotations

import copy
import math
from collections import deque
from contextlib import suppress
from typing import TYPE_CHECKING, Any, Final

import h2.errors
import h2.events
import h2.exceptions
import h2.settings
import trio
from hypercorn.app_wrappers import ASGIWrapper
from hypercorn.events import Closed, Event, RawData
from hypercorn.protocol.events import Event as StreamEvent
from hypercorn.protocol.events import Request, StreamClosed
from hypercorn.protocol.h2 import (
    BUFFER_LOW_WATER,
    H2Protocol,
    StreamBuffer,
)
from hypercorn.protocol.http_stream import ASGIHTTPState, HTTPStream
from hypercorn.trio.task_group import TaskGroup
from hypercorn.trio.tcp_server import TCPServer
from hypercorn.typing import ConnectionState
from hypercorn.utils import filter_pseudo_headers

from ._response import Framing, Response
from ._scope import SHUTDOWN, address_of
from ._transport import ClientGone, says_client_gone

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence

    from hypercorn.config import Config
    from hypercorn.trio.worker_context import WorkerContext
    from hypercorn.typing import AppWrapper

    from ._worker import Stream, Worker

MAX_UNWRITTEN: Final = 256 * 1024
"""Bytes that wait for a client, of all streams of its connection together."""
STREAM_WINDOW: Final = 65_535
"""Bytes of a request's body that may wait for its application (RFC 9113, 6.9.2)."""


async def serve_http2(
    worker: Worker,
    config: Config,
    context: WorkerContext,
    state: dict[str, Any],
    stream: Stream,
    first: bytes,
) -> None:
    """Serve one connection of HTTP/2, from its first byte to its end.

    Args:
        worker: this package's.
        config: Hypercorn's configuration.
        context: Hypercorn's.
        state: the lifespan's state.
        stream: the connection, behind its TLS handshake if it has one.
        first: what has been read from it already.
    """
    own = copy.copy(config)
    own.keep_alive_max_requests = 2**31  # it says good-bye too early: later responses get lost
    await _Server(
        worker, ASGIWrapper(worker.app), own, context, ConnectionState(state), stream
    ).serve(first)


class _Server(TCPServer):
    """A connection. Mended: one task writes, so that nobody's cancellation tears a frame.

    Who has something to write waits only when there is a lot to be written already.
    """

    def __init__(self, worker: Worker, *theirs: Any) -> None:
        super().__init__(*theirs)
        self._worker = worker
        self._unwritten = bytearray()
        self._news = trio.Event()  # there is something to write
        self._room = trio.Event()  # ... and now there is less
        self._broken = False
        self.protocol: Any

    async def serve(self, first: bytes) -> None:
        """Serve until it closes."""
        tls = isinstance(self.stream, trio.SSLStream)
        plain: Any = self.stream.transport_stream if tls else self.stream
        family = plain.socket.family
        try:
            async with TaskGroup() as self._task_group:
                self.protocol = _Protocol(
                    self.app,
                    self.config,
                    self.context,
                    self._task_group,
                    ConnectionState(self.state),
                    tls,
                    address_of(family, plain.socket.getpeername()),
                    address_of(family, plain.socket.getsockname()),
                    self.protocol_send,
                )
                self.protocol.worker = self._worker
                tasks: Any = self._task_group  # Hypercorn has no types for what it spawns
                tasks.spawn(self._write)
                await self.protocol.initiate()
                idle: Any = self.idle_task
                await idle.restart(tasks, self._idle_timeout)
                if first:
                    await self.protocol.handle(RawData(first))
                await self._read_data()
                await self.idle_task.stop()
                self._stop_writing()
        finally:
            await self._close()

    async def protocol_send(self, event: Event) -> None:
        if not isinstance(event, RawData):
            if isinstance(event, Closed):
                await self._flush()
            await super().protocol_send(event)
            return
        if not self._broken:
            self._unwritten += event.data
            self._news.set()
        while len(self._unwritten) > MAX_UNWRITTEN and not self._broken:
            self._room = trio.Event()
            await self._room.wait()

    async def _write(self) -> None:
        while not self._broken:
            if not self._unwritten:
                self._news = trio.Event()
                await self._news.wait()
                continue
            data = bytes(self._unwritten)
            done = False
            seconds = self._worker.settings.send_timeout
            with trio.move_on_after(seconds) as scope:
                try:
                    await self.stream.send_all(data)
                    done = True
                except (trio.BrokenResourceError, trio.ClosedResourceError):
                    pass
            del self._unwritten[: len(data)]
            if not done:
                if scope.cancelled_caught:
                    self.protocol.give_up(self.protocol.streams, seconds)
                self._stop_writing()
                await trio.aclose_forcefully(self.stream)
                await self.protocol.handle(Closed())
            self._room.set()

    def _stop_writing(self) -> None:
        self._broken = True
        self._unwritten.clear()
        self._news.set()
        self._room.set()

    async def _flush(self) -> None:
        """Wait until all is written, but not for long."""
        with trio.move_on_after(self._worker.settings.close_timeout):
            while self._unwritten:
                self._room = trio.Event()
                await self._room.wait()

    async def _close(self) -> None:
        with trio.move_on_after(self._worker.settings.close_timeout, shield=True):
            await super()._close()
        with trio.CancelScope(shield=True):
            await trio.aclose_forcefully(self.stream)


class _Buffer(StreamBuffer):
    """What waits to be written. Mended: whoever writes waits until there is room again.

    Hypercorn looks at how much it could take out, not at how much is left: with a closed window it
    takes nothing out and lets the writer go on.
    """

    async def pop(self, max_length: int) -> bytes:
        data = bytes(self.buffer[:max_length])
        del self.buffer[:max_length]
        if len(self.buffer) < BUFFER_LOW_WATER:
            await self._paused.set()
        if not self.buffer:
            await self._is_empty.set()
        return data


class _Protocol(H2Protocol):
    """The streams of one connection. Mended: see the methods."""

    worker: Worker

    def __init__(self, *theirs: Any) -> None:
        super().__init__(*theirs)
        self.calls: int = 0
        settings = self.connection.local_settings
        settings[h2.settings.SettingCodes.ENABLE_CONNECT_PROTOCOL] = 0
        settings.acknowledge()

    async def initiate(
        self, headers: list[tuple[bytes, bytes]] | None = None, settings: bytes | None = None
    ) -> None:
        """Mended: one stream that is not read does not stop the others of its connection."""
        await super().initiate(headers, settings)
        streams = self.config.h2_max_concurrent_streams
        self.connection.increment_flow_control_window(STREAM_WINDOW * streams)
        await self._flush()

    async def handle(self, event: Event) -> None:
        """Mended: when the connection has ended, nobody waits to write to it any more."""
        await super().handle(event)
        if isinstance(event, Closed):
            for stream_id in list(self.stream_buffers):
                await self._forget(stream_id)

    async def stream_send(self, event: StreamEvent) -> None:
        """Mended: a client that takes nothing of a response gets its stream reset."""
        seconds = self.worker.settings.send_timeout
        with trio.move_on_after(seconds) as scope:
            await super().stream_send(event)
        if scope.cancelled_caught:
            self.give_up([event.stream_id], seconds)
        if isinstance(event, StreamClosed) or scope.cancelled_caught:
            await self._abandon(event.stream_id)
        if scope.cancelled_caught:
            await self._close_stream(event.stream_id)

    def give_up(self, stream_ids: Iterable[int], seconds: float) -> None:
        """Their client has taken nothing for so long: what applications are told of it."""
        for stream_id in stream_ids:
            stream: Any = self.streams.get(stream_id)
            if stream is not None:
                stream.task_group.why = {"send_timeout": seconds}

    async def _handle_events(self, events: list[h2.events.Event]) -> None:
        """Mended: data for a stream that is over is no error of the server."""
        for event in events:
            if isinstance(event, h2.events.DataReceived):
                await self._take_data(event)
            elif isinstance(event, h2.events.StreamReset):
                await self._close_stream(event.stream_id)
                await self._forget(event.stream_id)
            elif not isinstance(event, h2.events.PriorityUpdated):
                # Priorities are of no use to anybody (RFC 9113, 5.3.2), and a thousand of them are
                # more than Hypercorn's tree takes.
                await super()._handle_events([event])
        await self._flush()

    async def _take_data(self, event: h2.events.DataReceived) -> None:
        stream: Any = self.streams.get(event.stream_id)
        assert event.flow_controlled_length is not None
        if stream is None or stream.closed or not event.data:
            self.acknowledge(event.stream_id, event.flow_controlled_length)
        elif not stream.task_group.put_body(event.data, event.flow_controlled_length):
            self.acknowledge(event.stream_id, event.flow_controlled_length)
            await self._refuse_body(stream)

    async def _refuse_body(self, stream: Any) -> None:
        """A body is too large: answer in place of the application, or cut its answer."""
        if stream.state is ASGIHTTPState.REQUEST:
            self._answer(stream.stream_id, 413)
            self._reset(stream.stream_id, h2.errors.ErrorCodes.NO_ERROR)  # RFC 9113, 8.1
        else:
            self._reset(stream.stream_id, h2.errors.ErrorCodes.ENHANCE_YOUR_CALM)
        await self._close_stream(stream.stream_id)
        await self._forget(stream.stream_id)

    def acknowledge(self, stream_id: int, number: int) -> None:
        """Let the client send as much again."""
        with suppress(h2.exceptions.ProtocolError, KeyError, ValueError):  # it is over
            self.connection.acknowledge_received_data(number, stream_id)

    async def flush_acknowledged(self) -> None:
        """Tell the client of it."""
        await self._flush()

    async def _create_stream(self, request: h2.events.RequestReceived) -> None:
        """Mended: of a request only what can be served reaches a stream (RFC 9113, 8.3)."""
        stream_id = request.stream_id
        pseudo: dict[bytes, bytes] = {}
        for name, value in request.headers or ():
            if name.startswith(b":"):
                pseudo[bytes(name)] = bytes(value)
        method, path = pseudo.get(b":method", b""), pseudo.get(b":path", b"")
        hosts = [value for name, value in request.headers or () if name in (b":authority", b"host")]
        visible = all(b"!" <= bytes((byte,)) <= b"~" for byte in b"".join([method, path, *hosts]))
        servable = method and method != b"CONNECT" and (path == b"*" or path.startswith(b"/"))
        if not visible or not servable:
            self._reset(stream_id, h2.errors.ErrorCodes.PROTOCOL_ERROR)
            return
        if self.calls > 2 * self.config.h2_max_concurrent_streams:
            # Streams that were opened and reset at once, and their calls have not ended yet.
            self.connection.close_connection(h2.errors.ErrorCodes.ENHANCE_YOUR_CALM)
            await self._flush()
            await self.send(Closed())
            return
        refusal = self._too_large(request.headers or [])
        if refusal:
            self._answer(stream_id, refusal)
            if request.stream_ended is None:
                self._reset(stream_id, h2.errors.ErrorCodes.NO_ERROR)
            return
        call: Any = _Call(self, stream_id)  # all of a task group that a stream knows
        stream = HTTPStream(
            self.app,
            self.config,
            self.context,
            call,
            self.ssl,
            self.client,
            self.server,
            self.stream_send,
            stream_id,
        )
        self.streams[stream_id] = stream
        self.stream_buffers[stream_id] = _Buffer(self.context.event_class)
        self.priority.insert_stream(stream_id)
        self.priority.block(stream_id)
        await stream.handle(
            Request(
                stream_id=stream_id,
                headers=filter_pseudo_headers(request.headers or []),
                http_version="2",
                method=method.decode().upper(),
                raw_path=path,
                state=self.connection_state,
            )
        )
        await self.context.mark_request()

    async def _create_server_push(
        self, stream_id: int, path: bytes, headers: list[tuple[bytes, bytes]]
    ) -> None:
        """Server push is gone from the browsers; Hypercorn's creates streams of its own."""

    def _too_large(self, headers: Sequence[tuple[bytes, bytes]]) -> int:
        """The status of the answer to a request that has more of something than is served; or 0."""
        settings = self.worker.settings
        if sum(not name.startswith(b":") for name, _ in headers) > settings.max_headers:
            return 431
        lengths = [value for name, value in headers if name == b"content-length"]
        if any(int(value) > settings.max_body_size for value in lengths):  # h2 has looked at them
            return 413
        return 0

    def _answer(self, stream_id: int, status: int) -> None:
        """Answer in place of the application."""
        headers = [(b":status", b"%d" % status), (b"content-length", b"0")]
        headers += self.config.response_headers("h2")
        with suppress(h2.exceptions.ProtocolError):  # it is over
            self.connection.send_headers(stream_id, headers, end_stream=True)

    def _reset(self, stream_id: int, code: h2.errors.ErrorCodes) -> None:
        with suppress(h2.exceptions.ProtocolError):  # it is over
            self.connection.reset_stream(stream_id, error_code=code)

    async def _abandon(self, stream_id: int) -> None:
        """The response is over: what it has not written, it never will."""
        buffer = self.stream_buffers.get(stream_id)
        if buffer is not None and not buffer.complete:
            await self._forget(stream_id)
            self._reset(stream_id, h2.errors.ErrorCodes.INTERNAL_ERROR)
            await self._flush()

    async def _forget(self, stream_id: int) -> None:
        """Mended: a stream that was reset leaves nothing behind."""
        buffer = self.stream_buffers.pop(stream_id, None)
        if buffer is not None:
            await buffer.close()
            self.priority.remove_stream(stream_id)
            await self.has_data.set()


class _Call:
    """The ASGI call of one stream: what an `HTTPStream` knows as its task group.

    Mended: an application that does not receive does not stop its connection; after a disconnect
    ``receive`` says so again and ``send`` raises `OSError` (ASGI 2.4). What cannot be sent raises
    what it does over HTTP/1.1. The head of a response waits for the first piece of its body, so
    that a crash before that is answered with 500.

    Attributes:
        why: what is known of the end besides, see ``_scope.py``.
    """

    def __init__(self, protocol: _Protocol, stream_id: int) -> None:
        self._protocol = protocol
        self._stream_id = stream_id
        self._waiting: deque[int] = (
            deque()
        )  # flow-controlled lengths of bodies that nobody has read
        self._gone = False
        self.why: Mapping[str, Any] = ClientGone.why
        self._size = 0  # of the body so far
        self._response: Response | None = None
        self._head: Any = None  # the message that starts the response, while it waits
        self._put, self._events = trio.open_memory_channel[dict[str, Any]](math.inf)

    async def spawn_app(
        self,
        app: AppWrapper,
        config: Config,
        scope: Any,
        send: Callable[[Any], Awaitable[None]],
    ) -> Callable[[Any], Awaitable[None]]:
        """Start the application; returns where `HTTPStream` puts its events."""
        scope["asgi"] = {"version": "3.0", "spec_version": "2.4"}
        scope["extensions"][SHUTDOWN] = {"wait": self._protocol.worker.wait_for_shutdown()}
        self._protocol.calls += 1
        tasks: Any = self._protocol.task_group
        tasks.spawn(self._run, app, scope, send)
        return self.put

    async def put(self, event: dict[str, Any]) -> None:
        """Take an event of the stream."""
        if event["type"] == "http.disconnect":
            self._gone = True
            event = {**event, **self.why}
        self._put.send_nowait(event)

    def put_body(self, data: bytes, length: int) -> bool:
        """Take a piece of the body; `length` bytes of the window are given back when it is read.

        Returns:
            False when the body is larger than allowed: nothing was taken.
        """
        self._size += len(data)
        if self._size > self._protocol.worker.settings.max_body_size:
            return False
        self._waiting.append(length)
        self._put.send_nowait({"type": "http.request", "body": bytes(data), "more_body": True})
        return True

    async def _receive(self) -> dict[str, Any]:
        if self._gone:
            await trio.lowlevel.checkpoint()
            return {"type": "http.disconnect", **self.why}
        event = await self._events.receive()
        if event["type"] == "http.request" and event["more_body"]:
            self._protocol.acknowledge(self._stream_id, self._waiting.popleft())
            await self._protocol.flush_acknowledged()
        return event

    async def _run(
        self, app: AppWrapper, scope: Any, send: Callable[[Any], Awaitable[None]]
    ) -> None:
        async def checked_send(message: Any) -> None:
            if self._gone:
                await trio.lowlevel.checkpoint()
                raise self._loss()
            self._check(scope["method"], message)
            if message["type"] == "http.response.start":
                headers = message.get("headers", ())
                if message["status"] == 204:  # RFC 9110, 8.6: it has no length
                    headers = [pair for pair in headers if pair[0].lower() != b"content-length"]
                self._head = {**message, "headers": headers}
                return
            if self._head is not None:
                head, self._head = self._head, None
                await send(head)
            await send(message)
            if self.why:
                raise self._loss()  # nobody has taken it

        try:
            await self._call(app, scope, checked_send)
            await send(None)
        finally:
            self._protocol.calls -= 1

    def _loss(self) -> ClientGone:
        error = ClientGone("the client is gone")
        error.why = self.why
        return error

    def _check(self, method: str, message: Any) -> None:
        """Refuse what cannot be sent: Hypercorn does not look, and h2 only strips what it knows."""
        if message["type"] == "http.response.start":
            if self._response is not None:
                raise RuntimeError("the response has started already")
            headers = message.get("headers", ())
            self._response = Response(int(message["status"]), headers, method, "1.1")
            return
        response = self._response
        is_body = message["type"] == "http.response.body"
        if is_body and response is not None and response.framing is Framing.LENGTH:
            response.frame(message.get("body", b""))
            if not message.get("more_body", False):
                response.end()

    async def _call(self, app: AppWrapper, scope: Any, send: Any) -> None:
        log = self._protocol.worker.log
        receive: Any = self._receive  # Hypercorn has a type for each message
        try:
            await app(scope, receive, send, trio.to_thread.run_sync, trio.from_thread.run)
        except Exception as error:
            if not (self._gone and says_client_gone(error)):
                await log.exception("Error in ASGI Framework")
        except BaseExceptionGroup as group:
            crash, rest = group.split(Exception)
            if crash is not None:
                await log.exception("Error in ASGI Framework")
            if rest is not None:
                raise rest from None
