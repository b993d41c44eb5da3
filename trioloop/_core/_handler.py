"""`Handler`: the callbacks and attributes that every kind of handler shares.

Laws of this file:

* A handler is a plain object: making one starts nothing, and its callbacks can be called as
  functions once it has its ``ref``, ``hub`` and ``request``.
* A callback returns commands; it never touches a socket.
* Subclasses need no ``super().__init__()``.
"""

from __future__ import annotations

from collections.abc import Awaitable, Hashable, Sequence
from difflib import get_close_matches
from typing import TYPE_CHECKING, Any, ClassVar, Generic, cast

from typing_extensions import TypeVar

from ._commands import Stop
from ._mailbox import Overflow, OverflowPolicy
from ._reasons import TerminateReason, TimedOut
from ._ref import HandlerRef, machine_of
from ._registry import Member

if TYPE_CHECKING:
    import trio

MessageT = TypeVar("MessageT", default=Any)


def _is_ours(kind: type) -> bool:
    return kind.__module__.partition(".")[0] == __name__.partition(".")[0]


def _refuse_misspelt_options(kind: type) -> None:
    """Refuse what nobody would read.

    Raises:
        TypeError: an attribute is an option's name but for a slip.
    """
    ours = [name for base in kind.__mro__ if _is_ours(base) for name in vars(base)]
    options = [name for name in ours if "_" in name.strip("_")]
    for name, value in vars(kind).items():
        if name.startswith("_") or callable(value) or name in ours:
            continue
        for option in get_close_matches(name, options, n=1, cutoff=0.9):
            raise TypeError(
                f"{kind.__name__}.{name} is no option of a handler, but {option} is; if it is meant"
                " to be something else, call it by a name that nobody can take for that one"
            )


class Handler(Generic[MessageT]):
    """A small state machine with a mailbox: one object for one request.

    Write `LoopHandler` or `EventStreamHandler` subclasses; this class is what they share. Type it
    with the messages it takes: ``class Chat(LoopHandler[Said | Left])``.

    Attributes:
        idle_timeout: seconds for which the mailbox may stay silent; ``math.inf`` for none.
        mailbox_size: messages accepted and not yet started.
        overflow: what a full mailbox does: a member of `Overflow`, or `KeepLatest`.
        send_timeout: seconds that one write may make no progress.
        terminate_timeout: seconds that an ``async def terminate`` may take.
        ref: what others send to. Set before ``init``.
        hub: where the handler runs. Set before ``init``.
    """

    idle_timeout: float = 60.0
    mailbox_size: int = 1000
    overflow: OverflowPolicy = Overflow.STOP
    send_timeout: float = 30.0
    terminate_timeout: float = 5.0

    ref: HandlerRef[MessageT]
    hub: Any
    request: Any

    command_types: ClassVar[tuple[type, ...]] = ()
    """What the default ``info`` carries out when it comes as a message."""

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        if not _is_ours(cls):
            _refuse_misspelt_options(cls)

    # -- callbacks -------------------------------------------------------------------------------

    def init(self, request: Any) -> Any:
        """Start: called once, before any message. By default it only waits for messages."""

    def info(self, message: MessageT) -> Any:
        """Handle one message.

        By default a message that is a command is carried out, and any other is refused with a
        `TypeError`, which ends the handler with ``Crashed``.
        """
        value: object = message
        items = cast("Sequence[object]", value) if isinstance(value, (list, tuple)) else ()
        if all(isinstance(item, self.command_types) for item in items or [message]):
            return message
        name = type(self).__name__
        raise TypeError(f"{name} got the message {message!r} but defines no info(); write one")

    def notify(self, message: MessageT) -> Any:
        """Handle one message that was sent with ``ref.notify``; by default ``info`` does."""
        return self.info(message)

    def idle(self) -> Any:
        """No message came for ``idle_timeout`` seconds; by default the handler ends `TimedOut`."""
        return Stop(TimedOut())

    def terminate(self, reason: TerminateReason) -> None | Awaitable[None]:
        """The handler has ended; called exactly once when ``init`` was entered.

        Shielded from cancellation, for ``terminate_timeout`` seconds. It may meet a half-made
        handler, since ``init`` can crash. What it raises is reported, never raised further.

        Args:
            reason: why.
        """

    # -- what concerns this handler --------------------------------------------------------------

    @property
    def nursery(self) -> trio.Nursery:
        """For child tasks.

        They end with the handler, and a crash in one of them ends it. Cancelling the nursery
        cancels the child tasks, never the handler.

        Raises:
            RuntimeError: outside ``init``, ``info``, ``notify``, ``idle``, ``receive`` and child tasks,
                unless one of these has used it before.
        """
        return machine_of(self.ref).use_nursery()

    def register(self, name: Hashable, *, replace: bool = False) -> None:
        """Take a name, by which ``hub.whereis`` finds this handler until it ends.

        Args:
            name: any hashable value.
            replace: take it over from another handler.

        Raises:
            NameTaken: another handler holds it.

        Source: ``erlang:register/2``.
        """
        machine_of(self.ref).register(name, replace=replace)

    def unregister(self, name: Hashable) -> None:
        """Give a name back; nothing happens when this handler does not hold it."""
        machine_of(self.ref).unregister(name)

    def join(self, group: Hashable, meta: Any = None) -> None:
        """Become a member of a group until the handler leaves it or ends.

        Args:
            group: any hashable value.
            meta: shown to others by ``hub.members``; joining again replaces it.

        Source: Erlang's ``pg:join/2``.
        """
        machine_of(self.ref).join(group, meta)

    def leave(self, group: Hashable) -> None:
        """Leave a group; nothing happens when the handler is not in it."""
        machine_of(self.ref).leave(group)

    def watch(self, group: Hashable) -> tuple[Member, ...]:
        """Get a message `Joined` or `Left` for every later change of a group.

        Returns:
            The members at this moment: nothing is missed in between.

        Source: Erlang's ``pg:monitor/1``.
        """
        return machine_of(self.ref).watch(group)

    def unwatch(self, group: Hashable) -> None:
        """Get no more of these messages."""
        machine_of(self.ref).unwatch(group)

    def monitor(self, ref: HandlerRef[Any]) -> None:
        """Get a message `Down` when another handler has ended, at once if it has already.

        Args:
            ref: the other handler; monitoring it twice gives two messages.

        Source: ``erlang:monitor/2``.
        """
        machine_of(self.ref).monitor(ref)
