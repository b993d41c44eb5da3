"""Frames of one WebSocket: bytes to messages, messages to bytes.

The laws of this file:

* ``websockets``' protocol decides what is right; what it would do for the plainest frames (masked,
  whole, uncompressed; pongs) is done here without it, because that is nearly every frame there is.
  It is made when there is another, for it takes 2 kB.
* However small the frames, only a few messages are made of bytes that nobody has asked for:
  ``inbox`` is filled to `MAX_INBOX`, the rest stays bytes.
* A message, its fragments together, uncompressed, is never larger than ``max_size``.
* After a violation nothing is read any more (RFC 6455, 7.1.7).
"""

from __future__ import annotations

import codecs
import logging
import struct
from typing import Any, Final

from websockets.exceptions import PayloadTooBig, ProtocolError
from websockets.extensions.base import Extension
from websockets.frames import Frame, Opcode
from websockets.protocol import OPEN, SERVER, Protocol

try:
    from websockets.speedups import apply_mask
except ImportError:  # built without its extension in C
    from websockets.utils import apply_mask

MAX_INBOX: Final = 32
"""Messages that are made before they are asked for."""
MAX_PING: Final = 125
"""Bytes of a control frame (RFC 6455, 5.5)."""

_STEP: Final = 4096  # bytes given to the protocol at once
_WHOLE: Final = 32 * 1024  # a frame up to this size is waited for, and read at once
_TEXT: Final = 0x81
_BINARY: Final = 0x82
_PONG: Final = 0x8A
_Utf8: Final = codecs.getincrementaldecoder("utf-8")

_quiet = logging.getLogger("trioloop.server.websockets")
_quiet.setLevel(logging.CRITICAL)  # what it says is said by the access log


class _Protocol(Protocol):
    """Mended: any control frame may come within a message, and is no part of it (RFC 6455, 5.4).

    The original takes a close there for a violation, and a ping for more of the message.
    """

    def __init__(self, limit: int) -> None:
        super().__init__(SERVER, state=OPEN, max_size=limit + MAX_PING, logger=_quiet)
        self.limit: int = limit

    def recv_frame(self, frame: Frame) -> None:
        size = (self.current_size or 0) + len(frame.data)
        if frame.opcode is Opcode.CLOSE:
            self.current_size = None
        super().recv_frame(frame)
        if size > self.limit and frame.opcode in (Opcode.TEXT, Opcode.BINARY, Opcode.CONT):
            self.events.pop()
            raise PayloadTooBig(size, self.limit)


class Frames:
    """The frames of one WebSocket, as its server.

    Args:
        max_size: bytes of a message.
        extension: the compression that was agreed on.

    Attributes:
        inbox: ASGI messages that have come.
        tells_pongs: whether pongs are put into it.
        heard: whether anything has come since somebody cleared this.
        closed: whether nothing more will come: a closing frame came, or a violation.
        violation: what the client did wrong; empty when it did not.
    """

    __slots__ = (
        "_extension",
        "_is_text",
        "_made",
        "_max_size",
        "_parts",
        "_plain",
        "_utf8",
        "closed",
        "heard",
        "inbox",
        "tells_pongs",
        "violation",
    )

    def __init__(self, max_size: int, extension: Extension | None) -> None:
        self._max_size = max_size
        self._extension = extension
        self._plain = extension is None
        self._made: _Protocol | None = None
        self._parts: bytearray | None = None  # of a fragmented message
        self._is_text = False
        self._utf8: codecs.IncrementalDecoder | None = None
        self.inbox: list[dict[str, Any]] = []  # few, and a deque takes 600 bytes
        self.tells_pongs: bool = False
        self.heard: bool = True
        self.closed: bool = False
        self.violation: str = ""

    @property
    def _protocol(self) -> _Protocol:
        if self._made is None:
            self._made = _Protocol(self._max_size)
            if self._extension is not None:
                self._made.extensions = [self._extension]
        return self._made

    # -- what comes ------------------------------------------------------------------------------

    def feed(self, buffer: bytearray) -> None:
        """Take messages out of the buffer, until the inbox is full or there is no whole frame."""
        self.heard = True
        while buffer and not self.closed and len(self.inbox) < MAX_INBOX:
            if not self._is_between_messages():
                self._feed_protocol(buffer, _STEP)
            elif buffer[0] in (_TEXT, _BINARY):
                if not self._take_plain(buffer):
                    return
            elif buffer[0] == _PONG and self._take_pong(buffer):
                continue
            elif buffer[0] & 0x08:  # a control frame, alone: more than one may end the messages
                if self.inbox and buffer[0] & 0x0F == Opcode.CLOSE:
                    return  # it is answered when the messages before it are
                self._feed_protocol(buffer, 6 + (buffer[1] & 0x7F) if len(buffer) > 1 else 1)
            else:
                self._feed_protocol(buffer, _STEP)

    def feed_end(self) -> None:
        """The client has left."""
        self.closed = True

    def _is_between_messages(self) -> bool:
        protocol = self._made
        if protocol is None:
            return self._plain
        return self._plain and protocol.current_size is None and not protocol.reader.buffer

    def _take_plain(self, buffer: bytearray) -> bool:
        """Take a frame that is a whole message; false when it has not come yet."""
        if len(buffer) < 2:
            return False
        length, start = buffer[1] - 128, 6
        if length == 126:
            if len(buffer) < 4:
                return False
            length, start = int.from_bytes(buffer[2:4], "big"), 8
        if not 0 <= length <= _WHOLE or length == 127 or length > self._max_size:
            self._feed_protocol(buffer, _STEP)  # large, unmasked, or too large
            return True
        end = start + length
        if len(buffer) < end:
            return False
        data = apply_mask(bytes(buffer[start:end]), bytes(buffer[start - 4 : start]))
        self._put(data, text=buffer[0] == _TEXT)
        del buffer[:end]
        return True

    def _take_pong(self, buffer: bytearray) -> bool:
        """Take a pong; false when it is not whole, or not as it should be."""
        if len(buffer) < 2 or not 128 <= buffer[1] <= 128 + MAX_PING:
            return False
        end = 6 + buffer[1] - 128
        if len(buffer) < end:
            return False
        if self.tells_pongs:
            data = apply_mask(bytes(buffer[6:end]), bytes(buffer[2:6]))
            self.inbox.append({"type": "websocket.pong", "bytes": data})
        del buffer[:end]
        return True

    def _feed_protocol(self, buffer: bytearray, size: int) -> None:
        piece = bytes(buffer[:size])
        del buffer[:size]
        protocol = self._protocol
        protocol.receive_data(piece)
        for frame in protocol.events_received():
            assert isinstance(frame, Frame)
            self._take_frame(frame)
            if self.closed:
                return
        if protocol.parser_exc is not None:
            self.closed = True
            self.violation = str(protocol.parser_exc) or "the client broke the protocol"

    def _take_frame(self, frame: Frame) -> None:
        if frame.opcode is Opcode.CLOSE:
            self.closed = True
        elif frame.opcode is Opcode.PONG:
            if self.tells_pongs:
                self.inbox.append({"type": "websocket.pong", "bytes": bytes(frame.data)})
        elif frame.opcode is not Opcode.PING:
            if frame.opcode is not Opcode.CONT:
                self._is_text = frame.opcode is Opcode.TEXT
                if frame.fin:
                    self._put(bytes(frame.data), text=self._is_text)
                    return
                self._parts = bytearray()
                self._utf8 = _Utf8() if self._is_text else None
            self._add_part(frame)

    def _add_part(self, frame: Frame) -> None:
        assert self._parts is not None
        self._parts += frame.data
        if self._utf8 is not None:
            try:
                self._utf8.decode(bytes(frame.data), final=frame.fin)
            except UnicodeDecodeError as error:
                self._fail_text(error)
                return
        if frame.fin:
            data, self._parts, self._utf8 = bytes(self._parts), None, None
            self._put(data, text=self._is_text)

    def _put(self, data: bytes, *, text: bool) -> None:
        if not text:
            self.inbox.append({"type": "websocket.receive", "bytes": data, "text": None})
            return
        try:
            decoded = str(data, "utf-8")
        except UnicodeDecodeError as error:
            self._fail_text(error)
        else:
            self.inbox.append({"type": "websocket.receive", "text": decoded, "bytes": None})

    def _fail_text(self, error: UnicodeDecodeError) -> None:
        self.closed = True
        if self._protocol.state is not OPEN:
            return  # it has closed in the same breath, and was answered
        self._protocol.fail(1007, "not UTF-8")
        self.violation = f"a text message that is not UTF-8: {error.reason}"

    def disconnect_message(self) -> dict[str, Any]:
        """ASGI's ``websocket.disconnect``, when it is over."""
        protocol = self._made
        close = None if protocol is None else protocol.close_rcvd
        if self.violation and protocol is not None and protocol.close_sent is not None:
            code = int(protocol.close_sent.code)
            return {
                "type": "websocket.disconnect",
                "code": code,
                "reason": protocol.close_sent.reason,
                "violation": self.violation,
            }
        return {
            "type": "websocket.disconnect",
            "code": 1006 if close is None else int(close.code),
            "reason": "" if close is None else close.reason,
        }

    # -- what goes -------------------------------------------------------------------------------

    def take_replies(self) -> bytes:
        """What has to be written after `feed`: pongs, and the answer to a closing frame."""
        if self._made is None or not self._made.writes:
            return b""
        return b"".join(self._made.data_to_send())

    def encode(self, data: str | bytes) -> bytes:
        """A message as bytes."""
        if isinstance(data, str):
            return self.encode_payload(data.encode(), is_text=True)
        return self.encode_payload(bytes(data), is_text=False)

    def encode_payload(self, payload: bytes, *, is_text: bool) -> bytes:
        """A message as bytes, from its bytes."""
        opcode = _TEXT if is_text else _BINARY
        if not self._plain:
            send = self._protocol.send_text if opcode == _TEXT else self._protocol.send_binary
            send(payload)
            return b"".join(self._protocol.data_to_send())
        length = len(payload)
        if length < 126:
            return bytes((opcode, length)) + payload
        if length < 65536:
            return struct.pack("!BBH", opcode, 126, length) + payload
        return struct.pack("!BBQ", opcode, 127, length) + payload

    def encode_ping(self, data: bytes) -> bytes:
        """A ping as bytes.

        Raises:
            ValueError: more than 125 bytes.
        """
        if len(data) > MAX_PING:
            raise ValueError(f"a ping takes {MAX_PING} bytes, not {len(data)}")
        return bytes((0x89, len(data))) + data

    def encode_close(self, code: int, reason: str) -> bytes:
        """A closing frame as bytes; none when one has been sent.

        Raises:
            ValueError: a code that may not be sent, or a reason of more than 123 bytes.
        """
        if self._protocol.state is not OPEN:
            return b""
        try:
            self._protocol.send_close(code, reason)
        except ProtocolError as error:
            raise ValueError(f"close {code} {reason!r}: {error}") from error
        return b"".join(self._protocol.data_to_send())
