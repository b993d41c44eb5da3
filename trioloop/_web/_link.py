"""The link: the ASGI call of one request, as seen from its handler.

Laws of this file:

* The ASGI call only listens. It drains ``receive()`` whatever the handler does, so that a
  disconnect is seen, and it returns when the handler has ended or a write has overrun its time:
  under a server that shields its writes, that return is what frees a stuck one.
* The handler's task writes by itself. One write at a time, each with a deadline.
* Nothing from the client goes into the mailbox.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Awaitable, Callable, Mapping
from typing import TYPE_CHECKING, Any, Final

import trio
from starlette.types import Message, Receive, Scope, Send

from .._core._errors import ReceiveTimedOut, ResponseAborted, SendTimedOut
from .._core._reasons import Disconnected, Failed, Overflowed, ShutDown, TimedOut

if TYPE_CHECKING:
    from .._core._machine import Machine

WRITE_EXTENSION: Final = "trioloop.write"
"""The scope extension by which a server takes pieces of body without a task switch."""
NOTHING: Final[Mapping[str, Any]] = {}
FAREWELL_SECONDS: Final = 1.0
"""How long the ending may take when the server cancels the call without notice."""


class Link:
    """One request's way to its client and back.

    Args:
        scope: the ASGI scope.
        receive: the server's ``receive``.
        send: the server's ``send``.
    """

    __slots__ = (
        "_aborted",
        "_alarm",
        "_arrived",
        "_chunks",
        "_complete",
        "_completing",
        "_deaf",
        "_dropped",
        "_farewell",
        "_finished",
        "_listening",
        "_machine",
        "_read_by_handler",
        "_receive",
        "_released",
        "_room",
        "_send",
        "_silence_due",
        "_starting",
        "_unread",
        "_write_due",
        "_write_nowait",
        "broken",
        "max_body",
        "receive_timeout",
        "scope",
        "send_timeout",
    )

    def __init__(self, scope: Scope, receive: Receive, send: Send) -> None:
        self.scope: Scope = scope
        self._receive = receive
        self._send = send
        self.send_timeout: float = math.inf
        self.receive_timeout: float = math.inf
        self.max_body: float = math.inf
        self.broken: bool = False  # a write failed: no other may follow
        # Our own server's cheaper way for a piece of body, see trioloop/server/_scope.py.
        extensions: Mapping[str, Any] = scope.get("extensions") or {}
        self._write_nowait: Callable[[bytes], bool] | None = extensions.get(
            WRITE_EXTENSION, NOTHING
        ).get("write_soon")
        self._machine: Machine | None = None
        self._listening: trio.CancelScope | None = None
        self._write_due = math.inf  # when the write in progress is too late
        self._starting = False  # ... and it is the head of the response
        self._completing = False  # ... or its end
        self._dropped = False  # it was too late
        self._released = False  # the call may return
        self._aborted = False
        self._silence_due = math.inf  # when an open WebSocket's client has been silent too long
        self._alarm = math.inf  # when the handler wants to look at the clock
        self._finished = False
        self._farewell: trio.Event | None = None
        self._deaf = False  # the client is gone: receive() has nothing more to say
        self._chunks: deque[bytes] | None = None  # of the body; few requests have one
        self._unread = 0
        self._complete = False
        self._read_by_handler = False
        self._arrived: trio.Event | None = None
        self._room: trio.Event | None = None

    # -- the ASGI call ---------------------------------------------------------------------------

    async def attend(self, machine: Machine) -> None:
        """Listen until the handler has ended.

        Raises:
            ResponseAborted: the server shall cut the connection.
        """
        self._machine = machine
        try:
            await self._listen(machine)
        except Exception:
            machine.end(Disconnected())
            raise
        except BaseException:  # cancelled, perhaps inside of an exception group
            machine.end(ShutDown())
            if not self._finished and self._write_due == math.inf:
                with trio.CancelScope(shield=True) as scope:
                    scope.deadline = trio.current_time() + FAREWELL_SECONDS
                    self._farewell = trio.Event()
                    await self._farewell.wait()
            machine.cut_off()
            raise
        if self._aborted:
            raise ResponseAborted("the response cannot be completed; the reason has been logged")

    async def _listen(self, machine: Machine) -> None:
        while not machine.entered and machine.reason is None:
            await trio.lowlevel.checkpoint()  # until init can have begun to read: two at most
        while not self._released:
            deadline = min(self._write_due, self._alarm, self._silence_due)
            with trio.CancelScope(deadline=deadline) as self._listening:
                while True:
                    if self._deaf:
                        await trio.sleep_forever()
                    elif self._is_full():
                        await self._wait_for_reader(machine)
                    else:
                        self._take(await self._receive(), machine)
            if self._silence_due <= trio.current_time():
                self._silence_due = math.inf
                machine.end(TimedOut("client"))
            if self._alarm <= trio.current_time():
                self._alarm = math.inf
                machine.ring()
            if self._write_due <= trio.current_time():
                self._dropped = self.broken = True
                self._write_due = math.inf
                machine.end(Failed(SendTimedOut(self.send_timeout)))
                if not self._starting:  # see docs/design.md: returning then would break the server
                    return

    def _is_full(self) -> bool:
        """Whether nothing more is taken from the client before a callback has read."""
        return self._read_by_handler and self._unread >= self.max_body

    def _wake(self) -> None:
        if self._listening is not None:
            self._listening.cancel()

    def _take(self, message: Message, machine: Machine) -> None:
        if message["type"] == "http.request":
            body: bytes = message.get("body", b"")
            if body and machine.reason is None:
                self._chunks = deque() if self._chunks is None else self._chunks
                self._chunks.append(body)
                self._unread += len(body)
            self._complete = not message.get("more_body", False)
            if self._unread > self.max_body and not self._read_by_handler:
                self._overflow(machine)
        elif message["type"] == "http.disconnect":
            self._deaf = True
            if not self._completing:  # servers say it after every complete response, too
                machine.end(Disconnected())
        if self._arrived is not None:
            self._arrived.set()

    def _overflow(self, machine: Machine) -> None:
        machine.end(Overflowed("body", int(self.max_body)))
        self._chunks = None
        self._unread = 0

    async def _wait_for_reader(self, machine: Machine) -> None:
        self._room = trio.Event()
        with trio.move_on_after(self.receive_timeout):
            await self._room.wait()
            return
        self._read_by_handler = False
        self._overflow(machine)

    # -- the handler's side ----------------------------------------------------------------------

    async def read_body(self) -> Message:
        """ASGI's ``receive`` for the handler's request.

        Raises:
            ReceiveTimedOut: the client sent nothing for ``receive_timeout`` seconds; the handler
                ends with ``TimedOut("client")``.
        """
        self._read_by_handler = True
        with trio.move_on_after(self.receive_timeout):
            while not self._chunks and not self._complete and not self._deaf:
                self._arrived = trio.Event()
                await self._arrived.wait()
            return await self._next_message()
        assert self._machine is not None
        self._machine.end(TimedOut("client"))
        raise ReceiveTimedOut(self.receive_timeout)

    async def _next_message(self) -> Message:
        await trio.lowlevel.checkpoint()
        if not self._chunks and self._deaf:
            return {"type": "http.disconnect"}
        body = self._chunks.popleft() if self._chunks else b""
        self._unread -= len(body)
        if self._room is not None:
            self._room.set()
        more = bool(self._chunks) or not self._complete
        return {"type": "http.request", "body": body, "more_body": more}

    def write(self, message: Message, now: float) -> Awaitable[None]:
        """Begin to send one ASGI message from the handler's task; `written` follows.

        Args:
            message: ``http.response.start`` or ``http.response.body``.
            now: the time (Trio's clock).

        Returns:
            What to await: it raises whatever the server's ``send`` raises.
        """
        due = self._write_due = now + self.send_timeout
        if self._listening is not None and due < self._listening.deadline:
            self._listening.deadline = due
        self._starting = message["type"] == "http.response.start"
        self._completing = not (self._starting or message.get("more_body", False))
        self.broken = True  # until it is written
        return self._send(message)

    def written(self) -> None:
        """The message has been sent."""
        self.broken = self._dropped
        self._write_due = math.inf

    def write_nowait(self, body: bytes) -> bool:
        """Send a piece of the body without waiting; false where only `write` can.

        Args:
            body: the piece; its response has started and is not complete.
        """
        if self._write_nowait is None or self.broken:
            return False
        try:
            return self._write_nowait(body)
        except RuntimeError:  # a response whose length was announced
            self._write_nowait = None
            return False

    def wake_at(self, deadline: float) -> None:
        """Let the machine's alarm ring at this time."""
        self._alarm = deadline
        if self._listening is not None and deadline < self._listening.deadline:
            self._listening.deadline = deadline

    def cut(self) -> None:
        """Have the server drop the connection."""
        self._aborted = True
        self.release()

    def finished(self) -> None:
        """The ending is written."""
        self._finished = True
        if self._farewell is not None:
            self._farewell.set()

    def release(self) -> None:
        """The call may return."""
        self._released = True
        self._wake()
