"""The link of a WebSocket: what the client sends, one message ahead and no more.

Laws of this file:

* A message that the handler has not started stops the reading, so that a client is never faster
  than its handler. Until then the link knows of nothing that comes behind it, a disconnect included.
* The client's silence counts only while it is listened to: neither while its message waits, nor
  while the handler has paused the reading.
* After our close frame the link waits for the client's, so that the frame is not lost with the
  connection (RFC 6455, section 7.1.1), but not for long.
"""

from __future__ import annotations

import math
from collections.abc import Awaitable, Callable, Mapping
from contextlib import suppress
from functools import partial
from typing import TYPE_CHECKING, Any, Final

import trio
from starlette.types import Message, Receive, Scope, Send

from .._core._errors import MessageTooLarge, ProtocolViolation
from .._core._mailbox import NOTHING
from .._core._reasons import Disconnected, Failed, Overflowed, TerminateReason
from .._wire import CloseCode, Rate, TokenBucket, utf8_size_exceeds
from ._link import NOTHING as NOTHING_OFFERED
from ._link import Link, shortcut_of

if TYPE_CHECKING:
    from .._core._machine import Machine

LINGER_SECONDS: Final = 2.0
"""How long the client may take to answer our close frame with its own."""
UNHEARD_SECONDS: Final = 0.1
"""How long a server may take to note that a connection is to be closed to which it cannot write."""
DRAIN_SECONDS: Final = 60.0
"""How long a server may take to say that a connection is gone from which nobody reads any more."""

WEBSOCKET_EXTENSION: Final = "trioloop.websocket"
"""The scope extension of a server that can do more for WebSockets than ASGI says.

It takes ``websocket.ping`` with ``bytes``, tells ``websocket.pong``, finds ``max_message_size`` (bytes)
and ``deflate`` (a bool) in ``websocket.accept``, and says in ``websocket.disconnect`` what went wrong: ``violation`` is a
sentence when the client broke the protocol, and ``code`` is then the one it was closed with.
"""


class WebSocketLink(Link):
    """One WebSocket's way to its client and back.

    Args:
        scope: the ASGI scope.
        receive: the server's ``receive``, which has given ``websocket.connect``.
        send: the server's ``send``.
    """

    __slots__ = (
        "_accepting",
        "_data",
        "_open",
        "_paused",
        "_rate",
        "_send_soon",
        "max_message_size",
        "speaks_ping",
        "watches_silence",
    )

    def __init__(self, scope: Scope, receive: Receive, send: Send) -> None:
        super().__init__(scope, receive, send)
        extensions: Mapping[str, Any] = scope.get("extensions") or {}
        self.speaks_ping: bool = WEBSOCKET_EXTENSION in extensions
        self.watches_silence: bool = self.speaks_ping  # pongs are hidden elsewhere
        self.max_message_size: float = math.inf
        shortcut = shortcut_of(scope, WEBSOCKET_EXTENSION, send) or NOTHING_OFFERED
        self._send_soon: Callable[[Message], bool] | None = shortcut.get("send_soon")
        self._data: object = NOTHING  # the message that waits for the handler
        self._paused = False
        self._rate: _Meter | None = None
        self._accepting = False  # the message that is being written accepts
        self._open = False  # accepted

    # -- the ASGI call ---------------------------------------------------------------------------

    async def linger(self, receive: Receive) -> None:
        if self.dropped:
            await self._close_unheard(receive)
        elif self._open and not (self.aborted or self.deaf):
            with trio.move_on_after(LINGER_SECONDS):
                await drain(receive)

    async def _close_unheard(self, receive: Receive) -> None:
        """Have a server give up a connection to which nothing can be written.

        Hypercorn writes a close frame when the call returns, which would wait behind the write that
        is stuck, unless it has been told to close before. And it has to get rid of what the client
        has sent before it goes on to close.
        """
        assert self._machine is not None
        if not self.deaf:
            self._machine.hub.run_in_background(partial(drain_quietly, receive))
        with suppress(Exception), trio.move_on_after(UNHEARD_SECONDS):
            await self._send({"type": "websocket.close", "code": CloseCode.INTERNAL_ERROR})

    def is_full(self) -> bool:
        return self._data is not NOTHING

    def note_full(self) -> None:
        """A message may wait for its callback as long as it has to."""

    def _take(self, message: Message, machine: Machine) -> None:
        if message["type"] == "websocket.receive":
            self._take_data(message, machine)
        elif message["type"] == "websocket.disconnect":
            self.deaf = True
            if not self._completing:  # servers say it after our own close, too
                machine.end(self._why_gone(message))
        self._listen_for_silence()

    def _why_gone(self, told: Mapping[str, Any]) -> TerminateReason:
        code: int | None = told.get("code")
        if "violation" in told and code is not None:
            if code == CloseCode.TOO_LARGE:
                return Failed(MessageTooLarge(self.max_message_size))
            return Failed(ProtocolViolation(code, told["violation"]))
        if code is None or code == CloseCode.ABNORMAL:  # no close frame was seen, or not passed on
            return super()._why_gone(told)
        return Disconnected(code, told.get("reason") or "")

    def _take_data(self, message: Message, machine: Machine) -> None:
        text = message.get("text")
        data = (message.get("bytes") or b"") if text is None else text
        if machine.reason is not None:
            return
        if _is_too_large(data, self.max_message_size):
            machine.end(Failed(MessageTooLarge(self.max_message_size)))
            return
        exceeded = None if self._rate is None else self._rate.exceeded_by(data)
        if exceeded is not None:
            machine.end(Overflowed("rate", exceeded))
            return
        self._data = data
        if not self._paused:
            machine.offer()

    def limit_rate(self, rate: Rate) -> None:
        """Let the client send no faster than this, from now on."""
        self._rate = _Meter(rate, trio.current_time())

    def _listen_for_silence(self) -> None:
        """The client has just been heard, or is listened to again."""
        if self.receive_timeout == math.inf and self._silence_due == math.inf:
            return
        due = math.inf
        if self.watches_silence and self._open and not (self.is_full() or self._paused):
            due = trio.current_time() + self.receive_timeout
            self._hearing.look_by(due)
        self._silence_due = due

    # -- the handler's side ----------------------------------------------------------------------

    @property
    def gone(self) -> bool:
        """Whether the server has said that the connection is gone."""
        return self.deaf

    def take_data(self) -> object:
        """What the client has sent: the handler starts with it now; `read_on` follows."""
        assert self._machine is not None
        self._machine.data_ready = False
        data, self._data = self._data, NOTHING
        self._listen_for_silence()
        return data

    def read_on(self) -> None:
        self._hearing.read_on()

    def send_soon(self, message: Message) -> bool:
        """Send a message without waiting; false where only `write` can."""
        return self._send_soon is not None and not self.broken and self._send_soon(message)

    def regulate(self, *, receive: bool | None, receive_timeout: float | None) -> None:
        """Pause or resume the reading, or change how long the client may be silent from now on."""
        if receive is not None:
            self._paused = not receive
            if self._machine is not None and self.is_full():
                self._machine.data_ready = receive
        if receive_timeout is not None:
            self.receive_timeout = receive_timeout
            self.watches_silence = True
        self._listen_for_silence()

    def write(self, message: Message, now: float) -> Awaitable[None]:
        sending = super().write(message, now)
        kind = message["type"]
        # The head of a refusal goes out with its body: see docs/design.md for what returning would do.
        self._starting = kind == "websocket.http.response.body"
        self._completing = self._starting or kind == "websocket.close"
        self._accepting = kind == "websocket.accept"
        return sending

    def written(self) -> None:
        super().written()
        if self._accepting:
            self._accepting, self._open = False, True
            self._listen_for_silence()

    def finished(self) -> None:
        super().finished()
        self._data = NOTHING  # nobody will handle it: what else comes is dropped, too
        self._hearing.read_on()


async def drain(receive: Receive) -> None:
    """Take what the client sends, until it has gone."""
    while (await receive())["type"] != "websocket.disconnect":
        pass


async def drain_quietly(receive: Receive) -> None:
    """The same, in nobody's way."""
    with suppress(Exception), trio.move_on_after(DRAIN_SECONDS):
        await drain(receive)


class _Meter:
    """Measures one client against a `Rate`."""

    __slots__ = ("_bytes", "_messages", "_rate")

    def __init__(self, rate: Rate, now: float) -> None:
        self._rate = rate
        self._messages = TokenBucket(rate.messages, rate.burst, now)
        self._bytes = TokenBucket(rate.bytes, rate.burst, now)

    def exceeded_by(self, data: str | bytes) -> int | None:
        """The rate, per second, that this message exceeds; `None` for none."""
        now = trio.current_time()
        if not self._messages.take(1, now):
            return int(self._rate.messages)
        size = len(data) if isinstance(data, bytes) or data.isascii() else len(data.encode())
        return None if self._bytes.take(size, now) else int(self._rate.bytes)


def _is_too_large(data: str | bytes, limit: float) -> bool:
    return utf8_size_exceeds(data, limit) if isinstance(data, str) else len(data) > limit
