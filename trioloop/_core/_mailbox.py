"""The mailbox: a Trio memory channel that counts, and what it does when it is full.

Laws of this file:

* The limit counts messages that were accepted and whose callback has not started. Trio's own
  bound would not do: messages of timers and monitors are accepted beyond it.
* Acceptance is atomic: no ``await`` between looking at the count and putting the message.
* A message leaves exactly once: to the loop, or to the owner's ``displaced`` and ``drain``. The loop
  waits beside the channel and takes messages out of it, so that until then each can be displaced.
"""

from __future__ import annotations

import enum
import math
from collections.abc import Awaitable, Callable, Hashable
from dataclasses import dataclass
from typing import Any, Final, Protocol, TypeAlias, cast, final

import trio
from trio.lowlevel import current_task, reschedule, wait_task_rescheduled


@final
class Overflow(enum.Enum):
    """What a full mailbox does with one more message."""

    BLOCK = "BLOCK"
    """``await ref.send(...)`` waits for room; ``send_nowait`` raises `trio.WouldBlock`."""
    DROP_OLDEST = "DROP_OLDEST"
    """The oldest waiting message becomes a dead letter, the new one is accepted."""
    DROP_NEWEST = "DROP_NEWEST"
    """The new message is refused: ``send_nowait`` returns ``False``."""
    STOP = "STOP"
    """The new message is refused and the handler ends with ``Overflowed("mailbox", limit)``."""

    def __repr__(self) -> str:
        return f"Overflow.{self.name}"


@final
@dataclass(frozen=True, slots=True)
class KeepLatest:
    """Coalesce: of the waiting messages with one key only the newest is kept, in the oldest's place.

    Full of distinct keys it acts as ``Overflow.STOP``.

    Args:
        key: from a message to its key; key `None` is never coalesced. If it raises, the handler
            ends with ``Crashed(error, "overflow")`` and the sender is told ``False``.

    Raises:
        TypeError: the key is not callable.
    """

    key: Callable[[Any], Hashable]

    def __post_init__(self) -> None:
        if not callable(self.key):
            raise TypeError(f"KeepLatest(key) takes a function of a message, not {self.key!r}")


OverflowPolicy: TypeAlias = Overflow | KeepLatest
"""What a handler's ``overflow`` may be."""


@final
class Nothing(enum.Enum):
    """No message: `None` is a message like any other."""

    NOTHING = "NOTHING"


NOTHING: Final = Nothing.NOTHING


@final
class Notification:
    """A message that was sent with ``ref.notify``; the handler's ``notify`` gets its content."""

    __slots__ = ("message",)

    def __init__(self, message: object) -> None:
        self.message = message


@final
class Received:
    """What the client has sent, on its way to the callback for it. Never in a mailbox."""

    __slots__ = ("callback", "data")

    def __init__(self, callback: Callable[[Any], object], data: object) -> None:
        self.callback: Callable[[Any], Any] = callback
        self.data: object = data


Channel: TypeAlias = "tuple[trio.MemorySendChannel[Any], trio.MemoryReceiveChannel[Any]]"

_open_channel = cast("Callable[[float], Channel]", trio.open_memory_channel)
_spare: list[Channel] = []
"""Channels of mailboxes that are no more, all empty: to make one costs as much as a callback."""
MAX_SPARE: Final = 100


def _take_channel() -> Channel:
    try:
        return _spare.pop()  # no look before: there may be Trio in other threads, too
    except IndexError:
        return _open_channel(math.inf)


class Owner(Protocol):
    """What a mailbox tells the handler that it belongs to."""

    def accepted(self) -> None:
        """A message was accepted while nobody attended to the mailbox."""

    def overflowed(self, limit: int) -> None:
        """The mailbox was full under ``STOP``."""

    def displaced(self, message: object, policy: OverflowPolicy) -> None:
        """An accepted message lost its place to a newer one."""

    def key_crashed(self, error: Exception) -> None:
        """The key function of `KeepLatest` raised."""


def check_mailbox(size: Any, policy: object) -> None:
    """Refuse a mailbox that cannot be made.

    Raises:
        TypeError: the size is no integer, or the policy is no policy.
        ValueError: the size is less than one.
    """
    if isinstance(size, bool) or not (isinstance(size, int) or size == math.inf):
        raise TypeError(f"mailbox_size must be a number of messages, not {size!r}")
    if size < 1:
        raise ValueError(f"mailbox_size must be at least 1, not {size!r}")
    if not isinstance(policy, (Overflow, KeepLatest)):
        choices = ", ".join(map(repr, Overflow))
        raise TypeError(f"overflow must be {choices} or KeepLatest(key), not {policy!r}")


class Mailbox:
    """The bounded queue in front of one handler.

    Args:
        limit: messages accepted and not yet started.
        policy: what happens beyond the limit.
        owner: who is told about it.
    """

    __slots__ = (
        "_blocked",
        "_missed",
        "_parked",
        "_receive",
        "_reserved",
        "_send",
        "_visited",
        "closed",
        "count",
        "limit",
        "overdue",
        "owner",
        "policy",
        "unattended",
    )

    def __init__(self, limit: float, policy: OverflowPolicy, owner: Owner) -> None:
        self.limit: float = limit
        self.policy: OverflowPolicy = policy
        self.owner: Owner = owner
        self.count: int = 0
        self.closed: bool = False
        self.overdue: Callable[[], None] | None = None  # accepts timers that are due, before others
        self._send, self._receive = _take_channel()
        self.unattended: bool = False  # the owner wants to hear of the next message
        self._blocked: trio.lowlevel.ParkingLot | None = None
        self._reserved = 0  # places given to blocked senders that have not run yet
        self._parked: trio.lowlevel.Task | None = None  # the loop's, while it waits
        self._visited = False  # somebody does the loop's work, and its task must go on waiting
        self._missed = False  # ... but has been cancelled in the meantime

    # -- senders ---------------------------------------------------------------------------------

    def put_nowait(self, message: object) -> bool:
        """Accept a message, or say why not.

        Returns:
            Whether the message was accepted.

        Raises:
            trio.WouldBlock: full under ``Overflow.BLOCK``.
        """
        if self.closed:
            return False
        if self.overdue is not None:
            self.overdue()
        if self.count + self._reserved >= self.limit:
            return self._full(message)
        self.accept(message)
        return True

    def accept(self, message: object) -> None:
        """Accept a message beyond the limit too: timers, monitors."""
        if self.unattended:
            self.alert()
        self.count += 1
        self._send.send_nowait(message)

    def alert(self) -> None:
        """Tell the owner, who waits, that there is something to do. Once in each wait."""
        self.unattended = False
        self.owner.accepted()

    async def put(self, message: object) -> bool:
        """Accept a message; under ``Overflow.BLOCK`` wait for room, first come, first served.

        A checkpoint; cancelled, it has accepted nothing.
        """
        await trio.lowlevel.checkpoint_if_cancelled()
        try:
            accepted = self.put_nowait(message)
        except trio.WouldBlock:
            if self._blocked is None:
                self._blocked = trio.lowlevel.ParkingLot()
            await self._blocked.park()  # whoever makes room reserves the place for us
            if self.closed:
                return False
            self._reserved -= 1
            self.accept(message)
            return True
        await trio.lowlevel.cancel_shielded_checkpoint()
        return accepted

    def _full(self, message: object) -> bool:
        if self.policy is Overflow.BLOCK:
            raise trio.WouldBlock(
                f"the mailbox holds {self.count} messages; await ref.send() waits"
            )
        if self.policy is Overflow.DROP_OLDEST:
            self._displace_oldest()
            self.accept(message)
            return True
        if self.policy is not Overflow.DROP_NEWEST:
            self.owner.overflowed(int(self.limit))
        return False

    def _displace_oldest(self) -> None:
        self.count -= 1
        self.owner.displaced(self._receive.receive_nowait(), self.policy)

    # -- the loop --------------------------------------------------------------------------------

    def get_nowait(self) -> object:
        """The next message, which counts as started now; there must be one."""
        self.count -= 1
        if self._blocked and self.count + self._reserved < self.limit:
            self._reserved += 1  # the place goes to the sender that has waited longest
            self._blocked.unpark()
        return self._receive.receive_nowait()

    def wait(self) -> Awaitable[Any]:
        """Wait for `wake`. The owner is told of the next message; what is there ends no wait."""
        self._parked = current_task()
        self.unattended = True
        return wait_task_rescheduled(self._leave)  # noqa: ASYNC105 - the loop does

    def _leave(self, _: object) -> trio.lowlevel.Abort:
        if self._visited:
            self._missed = True
            return trio.lowlevel.Abort.FAILED
        self._parked = None
        self.unattended = False
        return trio.lowlevel.Abort.SUCCEEDED

    def wake(self) -> None:
        """End a `wait`. Cheaper than to cancel it."""
        if self._parked is not None:
            parked, self._parked = self._parked, None
            self.unattended = False
            reschedule(parked)

    def begin_visit(self) -> trio.lowlevel.Task | None:
        """Take messages out while the loop's task waits, and goes on waiting.

        Returns:
            That task; `None` when it does not wait, or not any more.
        """
        self._visited = self._parked is not None
        return self._parked

    def end_visit(self, *, goes_on: bool) -> None:
        """The visit is over: the wait goes on, or ends."""
        self._visited = False
        if goes_on and not self._missed:
            self.unattended = True
        else:
            self._missed = False
            self.wake()

    def close(self) -> None:
        """Accept nothing more; senders that wait for room are told ``False``."""
        self.closed = True
        if self._blocked:
            self._blocked.unpark_all()

    def drain(self) -> list[object]:
        """Take out all that was accepted and never started, oldest first. The last call to it."""
        left: list[object] = []
        if self.count:
            left = [self._receive.receive_nowait() for _ in range(self.count)]
            self.count = 0
        if len(_spare) < MAX_SPARE:
            _spare.append((self._send, self._receive))
        return left


class Cell:
    """A place in the queue whose message can be exchanged."""

    __slots__ = ("key", "message")

    def __init__(self, message: object, key: Hashable) -> None:
        self.message = message
        self.key = key


class CoalescingMailbox(Mailbox):
    """The mailbox of `KeepLatest`: a newer message takes the place of an older one of its key."""

    __slots__ = ("_cells", "_key_of")

    def __init__(self, limit: float, policy: KeepLatest, owner: Owner) -> None:
        super().__init__(limit, policy, owner)
        self._key_of = policy.key
        self._cells: dict[Hashable, Cell] = {}

    def put_nowait(self, message: object) -> bool:
        if self.closed:
            return False
        try:
            content = message.message if type(message) is Notification else message
            key = self._key_of(content)
            cell = None if key is None else self._cells.get(key)
        except Exception as error:
            self.owner.key_crashed(error)
            return False
        if cell is not None:
            older, cell.message = cell.message, message
            self.owner.displaced(older, self.policy)
            return True
        cell = Cell(message, key)
        accepted = super().put_nowait(cell)
        if accepted and key is not None:
            self._cells[key] = cell
        return accepted

    def get_nowait(self) -> object:
        return self._open(super().get_nowait())

    def _open(self, message: object) -> object:
        if not isinstance(message, Cell):  # a timer's or a monitor's, accepted past the policy
            return message
        if message.key is not None:
            del self._cells[message.key]
        return message.message

    def drain(self) -> list[object]:
        return [self._open(message) for message in super().drain()]


def make_mailbox(limit: float, policy: OverflowPolicy, owner: Owner) -> Mailbox:
    """The mailbox for a policy."""
    if isinstance(policy, KeepLatest):
        return CoalescingMailbox(limit, policy, owner)
    return Mailbox(limit, policy, owner)
