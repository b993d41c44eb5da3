"""The link: the ASGI call of one request, as seen from its handler.

Laws of this file:

* What the client sends is taken whatever the handler does, so that a disconnect is seen; how it is
  heard is said in `_hearing`.
* The handler writes by itself. One write at a time, each with a deadline.
* Nothing from the client goes into the mailbox.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Awaitable, Mapping
from typing import TYPE_CHECKING, Any, Final

import trio
from starlette.types import Message, Receive, Scope, Send

from .._core._errors import ReceiveTimedOut, SendTimedOut
from .._core._reasons import Disconnected, Failed, Overflowed, TerminateReason, TimedOut
from ._hearing import Hearing, hearing_of

if TYPE_CHECKING:
    from .._core._machine import Machine

WRITE_EXTENSION: Final = "trioloop.write"
"""The scope extension by which a server takes pieces of body without a task switch."""
NOTHING: Final[Mapping[str, Any]] = {}
GONE: Final = (OSError, trio.BrokenResourceError, trio.ClosedResourceError)
"""What ``send`` raises when the client is no longer there (ASGI 2.4: `OSError`)."""


class Link:
    """One request's way to its client and back.

    Args:
        scope: the ASGI scope.
        receive: the server's ``receive``.
        send: the server's ``send``.
    """

    __slots__ = (
        "_alarm",
        "_arrived",
        "_chunks",
        "_complete",
        "_completing",
        "_cut_off_due",
        "_hearing",
        "_machine",
        "_read_by_handler",
        "_reader_due",
        "_send",
        "_shortcut",
        "_silence_due",
        "_starting",
        "_unread",
        "_write_due",
        "aborted",
        "broken",
        "deaf",
        "dropped",
        "max_body",
        "receive_timeout",
        "scope",
        "send_timeout",
    )

    def __init__(self, scope: Scope, receive: Receive, send: Send) -> None:
        self.scope: Scope = scope
        self._send = send
        self.send_timeout: float = math.inf
        self.receive_timeout: float = math.inf
        self.max_body: float = math.inf
        self.broken: bool = False  # a write failed: no other may follow
        self.dropped: bool = False  # ... because it took too long
        self.aborted: bool = False  # the server shall drop the connection
        self.deaf: bool = False  # the client is gone: nothing more will be heard
        self._shortcut: Mapping[str, Any] | None = shortcut_of(scope, WRITE_EXTENSION, send)
        self._machine: Machine | None = None
        self._write_due = math.inf  # when the write in progress is too late
        self._starting = False  # ... and it is the head of the response
        self._completing = False  # ... or its end
        self._silence_due = math.inf  # when an open WebSocket's client has been silent too long
        self._reader_due = math.inf  # when the rest of the body has waited too long for a reader
        self._cut_off_due = math.inf  # when nobody waits for the ending any more
        self._alarm = math.inf  # when the handler wants to look at the clock
        self._chunks: deque[bytes] | None = None  # of the body; few requests have one
        self._unread = 0
        self._complete = False
        self._read_by_handler = False
        self._arrived: trio.Event | None = None
        self._hearing: Hearing = hearing_of(self, scope, receive)

    @property
    def resident(self) -> bool:
        """Whether the handler lives in the ASGI call, and has no task of its own."""
        return self._hearing.resident

    # -- the ASGI call ---------------------------------------------------------------------------

    def attend(self, machine: Machine) -> Awaitable[None]:
        """Be the ASGI call, until the handler has ended.

        Raises:
            ResponseAborted: the server shall cut the connection.
        """
        self._machine = machine
        return self._hearing.attend(machine)

    @property
    def is_writing(self) -> bool:
        """Whether a write is in progress."""
        return self._write_due < math.inf

    def next_look(self) -> float:
        """When `look` has something to do."""
        due = min(self._write_due, self._alarm, self._silence_due)
        return min(due, self._reader_due, self._cut_off_due)

    def look(self) -> bool:
        """Do what is due; true when a write is stuck, and only the end of the call can free it."""
        assert self._machine is not None
        machine, now = self._machine, trio.current_time()
        if self._silence_due <= now:
            self._silence_due = math.inf
            machine.end(TimedOut("client"))
        if self._reader_due <= now:
            self._reader_due = math.inf
            self._read_by_handler = False
            self._overflow(machine)
        if self._alarm <= now:
            self._alarm = math.inf
            machine.ring()
        if self._cut_off_due <= now:
            self._cut_off_due = math.inf
            machine.cut_off()
            self._hearing.give_up()
        if self._write_due <= now:
            self.dropped = self.broken = True
            self._write_due = math.inf
            machine.end(Failed(SendTimedOut(self.send_timeout)))
            return not self._starting  # see docs/design.md: returning then would break the server
        return False

    async def linger(self, receive: Receive) -> None:
        """The handler has ended, or a write is stuck: what is left to do before the call returns."""

    def is_full(self) -> bool:
        """Whether nothing more is taken from the client before a callback has read."""
        return self._read_by_handler and self._unread >= self.max_body

    def note_full(self) -> None:
        """The client is kept waiting from now on."""
        self._reader_due = trio.current_time() + self.receive_timeout
        self._hearing.look_by(self._reader_due)

    def take(self, message: Message) -> None:
        """Take what the server says of the client: an ASGI message."""
        assert self._machine is not None
        self._take(message, self._machine)

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
            self.deaf = True
            if not self._completing:  # servers say it after every complete response, too
                machine.end(self._why_gone(message))
        if self._arrived is not None:
            self._arrived.set()

    def reason_for(self, error: Exception) -> TerminateReason:
        """Why the handler ends when ``send`` has raised this."""
        if not isinstance(error, GONE):
            return Failed(error)
        return self._why_gone(getattr(error, "why", NOTHING))

    def _why_gone(self, told: Mapping[str, Any]) -> TerminateReason:
        """What a server says of the end, see trioloop/server/_scope.py."""
        seconds: float | None = told.get("send_timeout")
        return Disconnected() if seconds is None else Failed(SendTimedOut(seconds))

    def _overflow(self, machine: Machine) -> None:
        machine.end(Overflowed("body", int(self.max_body)))
        self._chunks = None
        self._unread = 0

    # -- the handler's side ----------------------------------------------------------------------

    async def read_body(self) -> Message:
        """ASGI's ``receive`` for the handler's request.

        Raises:
            ReceiveTimedOut: the client sent nothing for ``receive_timeout`` seconds; the handler
                ends with ``TimedOut("client")``.
        """
        self._read_by_handler = True
        with trio.move_on_after(self.receive_timeout):
            while not self._chunks and not self._complete and not self.deaf:
                self._arrived = trio.Event()
                await self._arrived.wait()
            return await self._next_message()
        assert self._machine is not None
        self._machine.end(TimedOut("client"))
        raise ReceiveTimedOut(self.receive_timeout)

    async def _next_message(self) -> Message:
        await trio.lowlevel.checkpoint()
        if not self._chunks and self.deaf:
            return {"type": "http.disconnect"}
        body = self._chunks.popleft() if self._chunks else b""
        self._unread -= len(body)
        self._reader_due = math.inf
        self._hearing.read_on()
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
        self._hearing.look_by(due)
        self._starting = message["type"] == "http.response.start"
        self._completing = not (self._starting or message.get("more_body", False))
        self.broken = True  # until it is written
        return self._send(message)

    def written(self) -> None:
        """The message has been sent."""
        self.broken = self.dropped
        self._write_due = math.inf

    def write_soon(self, body: bytes) -> bool:
        """Send a piece of the body without waiting; false where only `write` can.

        Args:
            body: the piece; its response has started and is not complete.
        """
        if self._shortcut is None or self.broken:
            return False
        try:
            return bool(self._shortcut["write_soon"](body))
        except RuntimeError:  # a response whose length was announced
            self._shortcut = None
            return False

    def begin(self, start: Message, body: bytes) -> bool:
        """Send the beginning of a response without waiting; false where only `write` can.

        Args:
            start: ``http.response.start``.
            body: the first piece of its body.
        """
        if self._shortcut is None or self.broken:
            return False
        return bool(self._shortcut["respond"](start["status"], start["headers"], body, more=True))

    def respond(self, start: Message, body: bytes) -> bool:
        """Send a whole response without waiting; false where only `write` can.

        Args:
            start: ``http.response.start``.
            body: its body.
        """
        if self._shortcut is None:
            return False
        self._completing = True  # if the client goes meanwhile, that is not heard either
        self._completing = self._shortcut["respond"](start["status"], start["headers"], body)
        self.deaf = self.deaf or self._completing  # it is over, which nobody says behind that
        return self._completing

    def wake_at(self, deadline: float) -> None:
        """Let the machine's alarm ring at this time."""
        self._alarm = deadline
        self._hearing.look_by(deadline)

    def read_on(self) -> None:
        """A callback has started with what the client has sent: more may come."""

    def cut_off_at(self, when: float) -> None:
        """Wait for the ending no longer than until this time."""
        self._cut_off_due = when
        self._hearing.look_by(when)

    def cut(self) -> None:
        """Have the server drop the connection."""
        self.aborted = True
        self._hearing.cut()

    def finished(self) -> None:
        """The ending is written."""
        self._hearing.finished()

    def release(self) -> None:
        """The call may return."""
        self._hearing.release()


def shortcut_of(scope: Scope, extension: str, send: Send) -> Mapping[str, Any] | None:
    """A server's cheaper ways to send, where no middleware wants to see what is sent.

    Args:
        scope: the ASGI scope.
        extension: which of its extensions.
        send: what the application was given.
    """
    extensions: Mapping[str, Any] = scope.get("extensions") or NOTHING
    offer: Mapping[str, Any] | None = extensions.get(extension)
    return offer if offer and offer["is_own"](send) else None
