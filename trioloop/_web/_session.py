"""A session: what is between a conversation and the requests in which its client appears.

Laws of this file:

* What the handler sends is numbered from 1 and kept until the client has said that it has it, or,
  on an event stream, until the room is needed for what comes later.
* One request at a time reads; a later one takes the place of an earlier one.
* A session without requests ends when its time is up, and a session that has ended is forgotten
  then, read to its end or not.
"""

from __future__ import annotations

import math
from collections import deque
from typing import TYPE_CHECKING, Any, Final, NamedTuple

import trio

from .._core._mailbox import NOTHING
from .._core._reasons import Disconnected

if TYPE_CHECKING:
    from .._core._machine import Machine
    from .._core._ref import HandlerRef
    from ._commands import Reply
    from ._conversation import Conversation
    from ._hub import Hub

OVERHEAD: Final = 100
"""Bytes that a message costs besides its data, about."""


class OutboxFull(Exception):
    """The client of a `Conversation` did not fetch what waits for it.

    Attributes:
        limit: the ``max_outbox`` that is full, in bytes.
    """

    def __init__(self, limit: float) -> None:
        super().__init__(f"more than {limit} bytes wait for a client to fetch them (max_outbox)")
        self.limit = limit


class Item(NamedTuple):
    """One message to the client."""

    number: int
    data: str | bytes


class Closed(NamedTuple):
    """How the conversation has ended, as a WebSocket's client would see it."""

    code: int
    reason: str


class News:
    """Message to the request that reads: there is something for it."""


class Replaced:
    """Message to the request that reads: another one does now."""


class Session:
    """The state of one conversation without a WebSocket.

    Args:
        hub: where it runs.
        key: its unguessable id.
        handler: the conversation.
        route: what the session belongs to; no other route finds it.
    """

    def __init__(self, hub: Hub, key: str, handler: Conversation[Any], route: object) -> None:
        self.key = key
        self.route = route
        self.hub = hub
        self.handler = handler
        self.opened = trio.Event()  # `init` has returned, or the handler has ended
        self.refusal: Reply | None = None
        self.closed: Closed | None = None
        self.paused = False
        self._machine: Machine | None = None
        self._items: deque[Item] = deque()
        self._size = 0
        self._last = 0
        self._written = 0  # up to here an event stream has written
        self._reader: HandlerRef[Any] | None = None
        self._requests = 0
        self._expires = math.inf
        self._alarm = math.inf
        self._changed = trio.Event()
        self._data: object = NOTHING
        self._room = trio.Event()
        self._giving = trio.Lock()

    # -- the handler's side ----------------------------------------------------------------------

    def begin(self, machine: Machine) -> None:
        """The handler starts."""
        self._machine = machine
        self.hub.sessions[self.key] = self
        self.hub.run_in_background(self._watch)

    def put(self, data: str | bytes) -> None:
        """Keep a message for the client.

        Raises:
            OutboxFull: there is no room.
        """
        size = OVERHEAD + len(data)
        limit = self.handler.max_outbox
        while self._items and self._size + size > limit and self._items[0].number <= self._written:
            self._drop_oldest()
        if self._size + size > limit:
            raise OutboxFull(limit)
        self._last += 1
        self._items.append(Item(self._last, data))
        self._size += size
        self._tell(News())

    def _drop_oldest(self) -> None:
        self._size -= OVERHEAD + len(self._items.popleft().data)

    def close(self, code: int, reason: str) -> None:
        """The conversation is over; what waits can still be fetched."""
        if self.closed is None:
            self.closed = Closed(code, reason)
            self.opened.set()
            self._tell(News())
            self._expires = trio.current_time() + self.handler.session_expiry
            self._room.set()
            self._change()

    def wake_at(self, deadline: float) -> None:
        """Let the machine's alarm ring at this time."""
        self._alarm = deadline
        self._change()

    def take_data(self) -> object:
        """What the client has sent; the next may come."""
        assert self._machine is not None
        self._machine.data_ready = False
        data, self._data = self._data, NOTHING
        self._room.set()
        return data

    def pause(self, *, paused: bool) -> None:
        """Offer the handler what the client has sent, or do not."""
        self.paused = paused
        if self._machine is not None and self._data is not NOTHING:
            self._machine.data_ready = not paused

    # -- the client's side -----------------------------------------------------------------------

    def attach(self, reader: HandlerRef[Any]) -> None:
        """A request reads from now on."""
        self._tell(Replaced())
        self._reader = reader

    def enter(self) -> None:
        """A request has come: the session does not expire."""
        self._requests += 1
        self._expires = math.inf

    def leave(self, reader: HandlerRef[Any] | None = None) -> None:
        """A request has ended."""
        if reader is not None and reader is self._reader:
            self._reader = None
        self._requests -= 1
        if not self._requests:
            self._expires = trio.current_time() + self.handler.session_expiry
            self._change()

    def knows(self, after: int) -> bool:
        """Whether all that came after this number is still here."""
        oldest = self._items[0].number if self._items else self._last + 1
        return oldest - 1 <= after <= self._last

    def acknowledge(self, after: int) -> None:
        """The client has all up to this number."""
        while self._items and self._items[0].number <= after:
            self._drop_oldest()

    def after(self, number: int) -> list[Item]:
        """What came after this number."""
        return [item for item in self._items if item.number > number]

    def wrote(self, number: int) -> None:
        """An event stream has written all up to this number."""
        self._written = max(self._written, number)

    async def give(self, data: str | bytes) -> bool:
        """Hand a message of the client to the handler, when it has taken the one before.

        Returns:
            Whether the handler lived to get it.
        """
        async with self._giving:  # first come, first served
            while self._data is not NOTHING and self.closed is None:
                self._room = trio.Event()
                await self._room.wait()
            if self.closed is not None:
                return False
            assert self._machine is not None
            self._data = data
            if not self.paused:
                self._machine.offer()
            return True

    def end(self) -> None:
        """The client has said that it goes."""
        assert self._machine is not None
        self._machine.end(Disconnected())

    # -- time ------------------------------------------------------------------------------------

    def _tell(self, message: object) -> None:
        if self._reader is not None:
            self._reader.send_nowait(message)

    def _change(self) -> None:
        self._changed.set()

    async def _watch(self) -> None:
        """Ring the handler's alarm, and end what nobody asks for any more."""
        assert self._machine is not None
        try:
            while True:
                self._changed = trio.Event()
                with trio.CancelScope(deadline=min(self._alarm, self._expires)):
                    await self._changed.wait()
                now = trio.current_time()
                if self._alarm <= now:
                    self._alarm = math.inf
                    self._machine.ring()
                if self._expires <= now:
                    self._expires = math.inf
                    self._machine.end(Disconnected())
                    return
        finally:
            self.hub.sessions.pop(self.key, None)
