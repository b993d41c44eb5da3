"""One connection: requests one after the other, until it closes.

The laws of this file:

* One task serves a connection. It reads only when somebody wants to know something of the client,
  so what nobody wants stays with the system, and the client is slowed down.
* Requests are answered in their order; the next is parsed when the last is answered.
* What a request leaves in the context of its task is gone with it.
* A connection that is lost stays lost: whoever uses it from then on gets an `OSError`.
* A write that is cancelled cuts the connection, whether it has begun or waits for its turn: it has
  been counted and framed, and what follows would stand behind a hole that no client sees.
* Nothing that happens here leaves `run` but cancellation and what ends the whole process.
"""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import suppress
from typing import TYPE_CHECKING, Any, Final

import trio

from ._exchange import Exchange
from ._head import BadRequest, Head, check_beginning, parse_head
from ._response import refusal
from ._transport import ClientGone, Interrupted, SendTimedOut, Transport
from ._websocket import WebSocket

if TYPE_CHECKING:
    from ._listening import Listener
    from ._scope import Surroundings
    from ._worker import Worker

MAX_AHEAD: Final = 64 * 1024
"""Bytes that are read ahead of what has been asked for, to see behind them."""
MAX_PENDING: Final = 64 * 1024
"""Bytes that wait for a slow reader behind those that are being written."""
LINGER_BYTES: Final = 2**20
"""Bytes that are read and thrown away after an answer that came too early."""
MAX_LAST: Final = 16 * 1024
"""Bytes of the end of a response that may wait for the end of the turn; more are not worth a copy."""
BREATH: Final = 16
"""Writes between two checkpoints of a task whose client takes all of them at once."""

HTTP2_PREFACE: Final = b"PRI * HTTP/2.0\r\n\r\n"
"""The first bytes of HTTP/2 with prior knowledge, as far as they look like HTTP/1 (RFC 9113, 3.4)."""


class Connection:
    """One connection.

    Args:
        worker: what it has in common with others.
        transport: its bytes.
        around: what its scopes have in common.

    Attributes:
        buffer: bytes that were read and not used.
        listener: who is given what comes, if the application listens.
        lost: why the client cannot be reached any more, for the access log; empty while it can.
        receiving: whether somebody waits for a sign of the client.
        requests: how many have come.
        why: what more is known of that.
    """

    __slots__ = (
        "_expired",
        "_others",
        "_pending",
        "_pending_size",
        "_slow",
        "_waiting",
        "_writes",
        "around",
        "buffer",
        "listener",
        "lost",
        "receiving",
        "requests",
        "transport",
        "why",
        "worker",
    )

    def __init__(self, worker: Worker, transport: Transport, around: Surroundings) -> None:
        self.worker: Worker = worker
        self.transport: Transport = transport
        self.around: Surroundings = around
        self.buffer: bytearray = bytearray()
        self.listener: Listener | None = None
        self.lost: str = ""
        self.requests: int = 0
        self.why: Mapping[str, Any] = ClientGone.why
        self.receiving: bool = False
        self._waiting = False  # for a request
        self._expired = False  # a deadline has come
        self._others: trio.Event | None = None  # somebody else wants to
        self._writes = 0
        self._slow: trio.Lock | None = None  # somebody waits for the client to take something
        self._pending: list[bytes] = []  # to be written at the end of the turn
        self._pending_size = 0

    async def run(self) -> bytes:
        """Serve until it closes.

        Returns:
            Nothing; or the first bytes of HTTP/2, if that is what the client speaks. Then the
            transport is still open.
        """
        http2 = False
        task = trio.lowlevel.current_task()
        pristine = task.context.copy()
        try:
            while True:
                request = await self._next_request()
                if request is None or not await request.serve():
                    break
                # Before the next one this task has been switched, which is when it takes effect.
                task.context = pristine.copy()
            http2 = self.buffer.startswith(HTTP2_PREFACE)
            if not http2:
                if self._pending or self._slow is not None:
                    await self._finish_writing()
                await self.transport.aclose()
        except ClientGone:
            pass
        finally:
            if not http2:
                self.flush()
                self.transport.close()
        return bytes(self.buffer) if http2 else b""

    async def _next_request(self) -> Exchange | WebSocket | None:
        """Wait for a request that can be served; `None` when there will be none."""
        try:
            end = self._find_head()
            if end < 0:
                end = await self._wait_for_head()
            else:  # pipelined: others shall have their turn, too
                await trio.lowlevel.checkpoint()
                if self.worker.draining:
                    return None
            head = None if end < 0 else self._take_head(end + 4)
            if head is None:
                return None
            self.requests += 1
            return WebSocket(self, head) if head.is_websocket else Exchange(self, head)
        except BadRequest as refused:
            await self.refuse(refused)
            return None

    # -- requests --------------------------------------------------------------------------------

    def _take_head(self, size: int) -> Head | None:
        """Take a head of this size out of the buffer; `None` where the client speaks HTTP/2."""
        settings = self.worker.settings
        if size > settings.max_head_size:
            raise BadRequest(431, "a head that is too large")
        data = bytes(self.buffer[:size])
        if data == HTTP2_PREFACE and not self.requests:
            return None
        del self.buffer[:size]
        return parse_head(data, settings.max_headers)

    def _find_head(self) -> int:
        buffer = self.buffer
        if buffer.startswith(b"\r\n"):  # RFC 9112, 2.2: some clients end a body with one too many
            del buffer[:2]
        return buffer.find(b"\r\n\r\n")

    async def _wait_for_head(self) -> int:
        """Read until there is a whole head; -1 when there will be none."""
        worker, buffer = self.worker, self.buffer
        self._waiting, self._expired = True, False
        deadlines = worker.heads if buffer else worker.idle
        deadlines.start(self)
        try:
            while not (self._expired or worker.draining):
                if buffer:
                    self._check_beginning()
                data = await self.transport.receive()
                if not data:
                    return -1
                buffer += data
                end = self._find_head()
                if end >= 0:
                    return end
                if deadlines is worker.idle:
                    deadlines.stop(self)
                    deadlines = worker.heads
                    deadlines.start(self)
        except Interrupted:
            pass
        finally:
            deadlines.stop(self)
            self._waiting = False
        if self._expired and buffer:
            raise BadRequest(408, "a head that took too long")
        return -1

    def _check_beginning(self) -> None:
        if len(self.buffer) > self.worker.settings.max_head_size:
            raise BadRequest(431, "a head that is too large")
        if not HTTP2_PREFACE.startswith(self.buffer):
            check_beginning(bytes(self.buffer))

    async def refuse(self, refused: BadRequest) -> None:
        """Answer a request that is not served, and let the client read the answer."""
        await self.worker.log.debug("Refused with %d: %s", refused.status, refused)
        defaults = self.worker.default_headers()
        await self.write(refusal(refused.status, defaults, refused.headers))
        await self.linger()

    async def linger(self) -> None:
        """Read what the client still sends: to close on it would take the answer from it.

        Source: RFC 9112, 9.6.
        """
        await self._finish_writing()
        if not self.transport.send_end():
            return
        left = LINGER_BYTES - len(self.buffer)
        self.buffer.clear()
        with trio.move_on_after(self.worker.settings.close_timeout):
            while left > 0:
                try:
                    data = await self.transport.receive()
                except Interrupted:
                    continue
                if not data:
                    return
                left -= len(data)

    # -- what the worker tells -------------------------------------------------------------------

    def expire(self) -> None:
        """A deadline has come: of keep-alive, of a head, of a body."""
        self._expired = True
        if self.listener is not None:
            self.listener.expire()
        else:
            self.transport.interrupt()

    def drain(self) -> None:
        """The server goes down: do not wait for another request."""
        if self._waiting:
            self.transport.interrupt()

    # -- reading ---------------------------------------------------------------------------------

    async def wait_for_other_receivers(self) -> None:
        """Wait until nobody else reads. Whoever reads sets `receiving`, and ends it."""
        while self.receiving:
            if self._others is None:
                self._others = trio.Event()
            await self._others.wait()

    def end_receiving(self) -> None:
        """Let others read."""
        self.receiving = False
        if self._others is not None:
            self._others.set()
            self._others = None

    async def read_more(self) -> bool:
        """Read some more of what the client has to send; false when it has left or was woken.

        Raises:
            BadRequest: it took longer than ``read_timeout``.
        """
        self._expired = False
        self.worker.bodies.start(self)
        try:
            data = await self.transport.receive()
        except Interrupted:
            if self._expired:
                raise BadRequest(408, "a body that took too long") from None
            return False
        finally:
            self.worker.bodies.stop(self)
        if not data:
            self.lose("disconnected")
        self.buffer += data
        return bool(data)

    async def look_ahead(self) -> bool:
        """Wait for a sign of the client, without need of its bytes; false when there was none."""
        if self.is_far_ahead:
            await self.transport.wait_for_end()
            self.note_end()
            return True
        try:
            data = await self.transport.receive()
        except Interrupted:
            return False
        if not data:
            self.lose("disconnected")
        self.buffer += data
        return True

    @property
    def is_far_ahead(self) -> bool:
        """Whether enough has been read that nobody has asked for."""
        return len(self.buffer) >= MAX_AHEAD

    def read_nowait(self) -> bool:
        """Read what has come; false when that is nothing."""
        data = self.transport.receive_nowait()
        if data is None:
            return False
        if not data:
            self.lose("disconnected")
        self.buffer += data
        return True

    def note_end(self) -> bool:
        """Look whether the client has left behind what is unread."""
        ended = self.transport.has_ended()
        if ended:
            self.lose("disconnected")
        return ended

    def lose(self, why: str, more: Mapping[str, Any] = ClientGone.why) -> None:
        """Give the client up.

        Args:
            why: for the access log.
            more: what the application is told of it.
        """
        if not self.lost:
            self.lost = why
            self.why = more
            self._pending.clear()
            self._pending_size = 0
        self.wake()

    def loss(self) -> ClientGone:
        """What to raise where nothing can be written any more."""
        error = ClientGone(f"the client is gone: {self.lost}")
        error.why = self.why
        return error

    def explained(self, disconnect: dict[str, Any]) -> dict[str, Any]:
        """A disconnect message with what this server knows of its reason, see ``_scope.py``."""
        disconnect.update(self.why)
        return disconnect

    def wake(self) -> None:
        """Have whoever waits for a sign of the client look whether there is still any to come."""
        self.transport.interrupt()
        if self.listener is not None:
            self.listener.advance()

    def end_listening(self) -> None:
        """Nothing is given to the application any more: it has returned, or knows that it is over."""
        if self.listener is not None:
            self.listener.end()
            self.listener = None

    # -- writing ---------------------------------------------------------------------------------

    async def write(self, data: bytes) -> None:
        """Write bytes: at once if the system takes them, else when the client does.

        Raises:
            ClientGone: the client has gone, or took nothing for ``send_timeout``.
        """
        if self.lost:
            await trio.lowlevel.checkpoint()
            raise self.loss()
        if self._slow is None:
            if self._pending:
                data = b"".join([*self._take_pending(), data])
            try:
                taken = self.transport.send_nowait(data)
            except ClientGone:
                self.lose("disconnected")
                await trio.lowlevel.checkpoint()
                raise
            if taken == len(data):
                self._writes += 1
                if not self._writes % BREATH:
                    await self._breathe()
                return
            data = data[taken:]
        await self.write_slowly(data)

    async def _breathe(self) -> None:
        """Let others run, and look whether anybody reads what is written."""
        await trio.lowlevel.checkpoint()
        if not self.receiving and self.transport.has_ended():
            self.lose("disconnected")

    async def write_slowly(self, data: bytes) -> None:
        """Write bytes as the client takes them, behind those that wait already."""
        if self._slow is None:
            self._slow = trio.Lock()
        lock = self._slow
        if lock.locked():
            await self._queue(data, lock)
            data = b""
        else:  # perhaps a part has been written: here is no place to be cancelled
            lock.acquire_nowait()
        try:
            await self._write_alone(data)
        finally:
            lock.release()
        self._go_on(lock)

    def _go_on(self, lock: trio.Lock) -> None:
        """One has had its turn: if it was the last, the client is not slow any more."""
        if not lock.locked():
            self._slow = None
            if self._pending:
                self.worker.turns.add(self)
            if self.listener is not None:  # it may have waited for room
                self.listener.advance()

    async def _queue(self, data: bytes, lock: trio.Lock) -> None:
        """Wait for one's turn. What others append meanwhile, such as a closing frame, comes behind."""
        if data:
            self._pending.append(data)
        done = not data
        try:
            await lock.acquire()
            done = True
        finally:
            if not (done or self.lost):  # to write it all the same would have no bound
                self.transport.abort()
                self.lose("disconnected")

    async def _write_alone(self, data: bytes) -> None:
        if self.lost:
            raise self.loss()
        data = b"".join([*self._take_pending(), data])
        done = not data
        try:
            if data:
                await self.transport.send_rest(data, self.worker.settings.send_timeout)
            done = True
        except SendTimedOut as error:
            self.lose("timed-out", error.why)
            raise
        finally:
            if not done:  # some of it may have been written: nobody can go on from there
                self.lose("disconnected")

    def write_nowait(self, data: bytes) -> bool:
        """Write at once; what the client does not take just now is written when it does.

        Returns:
            False when the client is gone, or takes nothing, or it is a lot: nothing was taken.
        """
        if self.lost or self._slow is not None or len(data) > MAX_PENDING:
            return False
        if self._pending:
            self.flush()
            return self.write_nowait(data)
        return self._write_at_once(data)

    def _write_at_once(self, data: bytes) -> bool:
        try:
            taken = self.transport.send_nowait(data)
        except ClientGone:
            self.lose("disconnected")
            return False
        if taken < len(data):
            self._begin_to_wait(data[taken:])
        return True

    def write_later(self, data: bytes) -> bool:
        """Write at the end of the turn, or when the client takes something again.

        Returns:
            False when the client is gone or too slow for that, and nothing was taken.
        """
        if self.lost or self._pending_size + len(data) > MAX_PENDING:
            return False
        self.append(data)
        return True

    def write_soon(self, data: bytes) -> bool:
        """Write at the end of the turn, or now where little is written.

        Returns:
            False when the client is gone or slow, or it is a lot: nothing was taken.
        """
        size = self._pending_size + len(data)
        if self.lost or self._slow is not None or size > MAX_PENDING:
            if not self.make_room(len(data)):
                return False
            size = self._pending_size + len(data)
        if not self._pending:
            if self.worker.turns.may_write_at_once():
                return self._write_at_once(data)
            self.worker.turns.add(self)
        self._pending.append(data)
        self._pending_size = size
        return True

    def write_last(self, data: bytes) -> bool:
        """Write the end of a response at the end of the turn.

        Returns:
            False when `write` is the better way, and nothing was taken.
        """
        return len(data) <= MAX_LAST and self.write_soon(data)

    def append(self, data: bytes) -> None:
        """Do as `write_later` does, however much waits already: whoever does that bounds it."""
        if self.lost:
            return
        if not self._pending and self._slow is None:
            if self.worker.turns.may_write_at_once():
                self._write_at_once(data)
                return
            self.worker.turns.add(self)
        self._pending.append(data)
        self._pending_size += len(data)

    def make_room(self, size: int) -> bool:
        """Whether a client that is not slow can be written so much at the end of the turn."""
        if self.lost or self._slow is not None or size > MAX_PENDING:
            return False
        if self._pending_size + size > MAX_PENDING:
            self.flush()
        return not self.lost and self._slow is None

    @property
    def is_slow(self) -> bool:
        """Whether something waits for the client to take it."""
        return self._slow is not None

    @property
    def has_room(self) -> bool:
        """Whether answers to what is read now can be appended."""
        return self._pending_size <= MAX_PENDING // 2

    async def wait_for_room(self) -> None:
        """Wait until answers can be appended. Nothing is lost with it when it is cancelled."""
        self.flush()
        while self._slow is not None and not (self.lost or self.has_room):
            lock = self._slow
            async with lock:  # others write
                pass
            self._go_on(lock)

    async def _finish_writing(self) -> None:
        """Wait until the client has taken all that `write_last` was given, see `write`."""
        self.flush()
        if self._slow is not None and not self.lost:
            await self.write_slowly(b"")

    def _take_pending(self) -> list[bytes]:
        pending, self._pending = self._pending, []
        self._pending_size = 0
        return pending

    def flush(self) -> None:
        """Write what `write_later` was given."""
        pending = self._pending
        if not pending or self._slow is not None:
            return
        self._pending, self._pending_size = [], 0
        data = pending[0] if len(pending) == 1 else b"".join(pending)
        try:
            taken = self.transport.send_nowait(data)
        except ClientGone:
            self.lose("disconnected")
            return
        if taken < len(data):
            self._begin_to_wait(data[taken:])
        elif len(data) > MAX_PENDING // 2 and self.listener is not None:
            self.transport.watch_again()  # it may have waited for room

    def _begin_to_wait(self, rest: bytes) -> None:
        """Let a task write the rest; or whoever comes first, for it is the first that is pending."""
        self._slow = trio.Lock()
        self._pending.insert(0, rest)
        self._pending_size += len(rest)
        self.worker.nursery.start_soon(self._flush_slowly)

    async def _flush_slowly(self) -> None:
        with suppress(ClientGone):  # its owner is told by `lose`
            await self.write_slowly(b"")
