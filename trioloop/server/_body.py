"""The body of a request: bytes as they come to the bytes that were meant.

The laws of this file:

* A body takes from the buffer what is its own and nothing more: the next request begins there.
* What the framing itself costs (chunk extensions, trailers) is bounded, and thrown away: a trailer
  never becomes a header.
* Nothing here waits or knows a socket.
"""

from __future__ import annotations

import math
import re
from typing import Final, Protocol

from ._head import BadRequest, Head

MAX_PIECE: Final = 256 * 1024
"""Bytes of a body that are handed on at once."""

_CHUNK_SIZE: Final = re.compile(rb"([0-9A-Fa-f]{1,15}+)([ \t]*+;[\t\x20-\x7e\x80-\xff]*+)?\r\n")
_CHUNK_SIZE_BEGINNING: Final = re.compile(
    rb"[0-9A-Fa-f]{0,15}+(?:[ \t]*+(?:;[\t\x20-\x7e\x80-\xff]*+)?)?\r?\Z"
)
_TRAILER: Final = re.compile(rb"(?:[!#$%&'*+\-.^_`|~0-9A-Za-z]++:[\t\x20-\x7e\x80-\xff]*+)?\r\n")
_MAX_LINE: Final = 4096
"""Bytes of one line of framing."""
_MAX_FRAMING: Final = 64 * 1024
"""Bytes of chunk extensions and trailers together, RFC 9112, 7.1.1."""


class Body(Protocol):
    """A body that is being received.

    Attributes:
        complete: nothing of it follows.
    """

    complete: bool

    def take(self, buffer: bytearray) -> bytes:
        """Take some of the body out of the buffer.

        Returns:
            At most `MAX_PIECE` bytes; empty when there are none yet, or when it is complete.

        Raises:
            BadRequest: it is malformed, or larger than allowed.
        """
        raise NotImplementedError


class _NoBody:
    complete: bool = True

    def take(self, buffer: bytearray) -> bytes:
        return b""


NO_BODY: Final[Body] = _NoBody()


class _CountedBody:
    """RFC 9112, 6.2: ``Content-Length``."""

    __slots__ = ("_left", "complete")

    def __init__(self, length: int) -> None:
        self._left = length
        self.complete: bool = False

    def take(self, buffer: bytearray) -> bytes:
        number = min(self._left, len(buffer), MAX_PIECE)
        data = bytes(buffer[:number])
        del buffer[:number]
        self._left -= number
        self.complete = not self._left
        return data


class _ChunkedBody:
    """RFC 9112, 7.1: ``Transfer-Encoding: chunked``."""

    __slots__ = ("_end_due", "_framing", "_last", "_left", "_limit", "_size", "complete")

    def __init__(self, limit: float) -> None:
        self.complete: bool = False
        self._limit = limit
        self._size = 0  # of the body so far
        self._framing = 0  # bytes of extensions and trailers so far
        self._left = 0  # of the current chunk
        self._end_due = False  # the CRLF behind its data has not come
        self._last = False  # the chunk of size 0 has come

    def take(self, buffer: bytearray) -> bytes:
        pieces: list[bytes] = []
        taken = 0
        while taken < MAX_PIECE and not self.complete:
            if self._left:
                number = min(self._left, len(buffer), MAX_PIECE - taken)
                if not number:
                    break
                pieces.append(bytes(buffer[:number]))
                del buffer[:number]
                self._left -= number
                taken += number
            elif not self._take_framing(buffer):
                break
        return b"".join(pieces)

    def _take_framing(self, buffer: bytearray) -> bool:
        """Take one line of framing; false when it has not come yet."""
        if self._end_due:
            return self._take_end(buffer)
        if self._last:
            return self._take_trailer(buffer)
        return self._take_size(buffer)

    def _take_end(self, buffer: bytearray) -> bool:
        if not b"\r\n".startswith(buffer[:2]):
            raise BadRequest(400, "a chunk that is longer than its size")
        if len(buffer) < 2:
            return False
        del buffer[:2]
        self._end_due = False
        return True

    def _take_size(self, buffer: bytearray) -> bool:
        line = _CHUNK_SIZE.match(buffer)
        if line is None:
            if len(buffer) > _MAX_LINE or _CHUNK_SIZE_BEGINNING.match(buffer) is None:
                raise BadRequest(400, "a malformed chunk size")
            return False
        self._count_framing(len(line[2] or b""))
        self._left = int(line[1], 16)
        self._size += self._left
        if self._size > self._limit:
            raise BadRequest(413, "a body that is too large")
        self._last = not self._left
        self._end_due = not self._last
        del buffer[: line.end()]
        return True

    def _take_trailer(self, buffer: bytearray) -> bool:
        end = buffer.find(b"\n")
        if end < 0:
            if len(buffer) > _MAX_LINE:
                raise BadRequest(400, "a trailer that is too long")
            return False
        if _TRAILER.fullmatch(buffer, 0, end + 1) is None:
            raise BadRequest(400, "a malformed trailer")
        self._count_framing(end + 1)
        self.complete = end == 1
        del buffer[: end + 1]
        return True

    def _count_framing(self, number: int) -> None:
        self._framing += number
        if number > _MAX_LINE or self._framing > _MAX_FRAMING:
            raise BadRequest(400, "more framing than a body needs")


def body_of(head: Head, limit: float = math.inf) -> Body:
    """The body that follows a head.

    Args:
        head: the head of the request.
        limit: bytes that the body may have.

    Raises:
        BadRequest: it says itself that it is too large.
    """
    if head.length is None:
        return _ChunkedBody(limit)
    if head.length > limit:
        raise BadRequest(413, "a body that is too large")
    return _CountedBody(head.length) if head.length else NO_BODY
