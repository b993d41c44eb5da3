"""What a handler does, seen from outside: its mailbox and its callbacks, wrapped.

Law of this file: it reports what goes in and out of public seams (what a mailbox said to a sender,
which callback was entered with what, what it returned), never what the machine thinks of itself.
So the laws are judged by evidence, and a bug in the machine cannot hide.
"""

from __future__ import annotations

from collections.abc import Callable, Coroutine, Generator, Iterator
from contextlib import AbstractContextManager
from contextvars import ContextVar
from functools import partial
from typing import Any, Final, NoReturn, cast

from .._core._household import Household
from .._core._machine import Machine
from .._core._mailbox import Cell, CoalescingMailbox, Mailbox, Notification, OverflowPolicy
from .._core._reasons import TerminateReason
from .._core._ref import HandlerRef
from ._journal import Journal

NOT_ITS_OWN = ("ref", "hub", "request", "last_event_id")
"""What the library has set on a handler."""

CALLBACKS = ("init", "info", "notify", "idle", "receive", "terminate")

acts_for_the_application: Final = ContextVar("acts_for_the_application", default=False)
"""Set in the tasks of the application, and so in all that they start: whoever else sends is the test."""


def content_of(message: Any) -> Any:
    """What the sender gave, out of the machine's wrappings."""
    if isinstance(message, Cell):
        message = message.message
    return message.message if isinstance(message, Notification) else message


class Observed:
    """One handler under observation.

    Args:
        machine: the handler's.
        journal: where it is written down.
        name: of the handler, there.

    Attributes:
        handler: the object itself.
        ref: its ref.
        client: the name of its client.
        is_told: the test has said already what it sends.
        reason: what ``terminate`` heard, or the machine's when ``init`` was never entered.
    """

    def __init__(self, machine: Machine, journal: Journal, name: str) -> None:
        self.machine = machine
        self.name = name
        self.client = ""
        self.handler: Any = machine.handler
        self.ref: HandlerRef[Any] = machine.ref
        self._journal = journal
        self.crash_next: Exception | None = None
        self.phase: str = "before the start"
        self._inside = False  # a `def` callback runs
        self.is_told: bool = False
        self._households: set[Household] = set()
        observe_mailbox(machine.mailbox, machine, self)
        own, call = self.handler.__dict__, self._call
        for callback in CALLBACKS:
            method = getattr(self.handler, callback, None)
            if method is not None:  # only a WebSocket receives
                own[callback] = partial(call, callback, method)

    def leave(self) -> None:
        """Observe no more: the handler and its mailbox are as they were."""
        for callback in CALLBACKS:
            self.handler.__dict__.pop(callback, None)
        self._households.clear()
        stop_observing(self.machine.mailbox, self.machine)

    def note(self, what: str, detail: Any = None) -> None:
        """Write down what the handler, or somebody with it, did."""
        self._journal.note(self.name, what, detail)

    def told(
        self, verb: str, *messages: Any, planned: bool = False
    ) -> AbstractContextManager[None]:
        """The test sends messages by a verb of its own, as long as the context lasts.

        Args:
            verb: of the handler's ref in a simulation.
            messages: all of them.
            planned: the test has said long before that it would.
        """
        what = "sends as planned" if planned else "sends"
        self._journal.note("test", what, (self.name, verb, *messages))
        return _Told(self)

    def is_sent(self, message: Any) -> None:
        """Somebody puts a message into the mailbox: write it down if that is the test."""
        if not (self.is_told or acts_for_the_application.get()):
            verb = "notify" if isinstance(message, Notification) else "send_without_settling"
            self._journal.note("test", "sends", (self.name, verb, content_of(message)))

    @property
    def reason(self) -> TerminateReason | None:
        """Why it ended, when ``terminate`` has run."""
        return self.machine.reason if self.machine.phase == "ended" else None

    @property
    def state(self) -> dict[str, Any]:
        """The attributes that the handler itself has set."""
        hidden = {*CALLBACKS, *NOT_ITS_OWN}
        return {name: value for name, value in self.handler.__dict__.items() if name not in hidden}

    def _call(self, callback: str, method: Callable[..., Any], *args: Any) -> Any:
        if self._inside:
            return method(*args)  # notify calls info, or a user's callback another one
        self.note(callback, args[0] if args and callback != "init" else None)
        self._inside = True
        if callback == "terminate":
            for what in self._leftovers():
                self.note("left behind", what)
        elif self.machine.household is not None:
            self._households.add(self.machine.household)
        try:
            if self.crash_next is not None and callback not in ("init", "terminate"):
                self._crash(self.crash_next)
            outcome: object = method(*args)
        except BaseException as error:
            self.note(f"{callback} raised", error)
            raise
        finally:
            self._inside = False
            self.phase = "waiting"
        if hasattr(type(outcome), "__await__"):
            return _Awaited(partial(self._await, callback), outcome)
        self.note(f"{callback} returned", outcome)
        return outcome

    def _crash(self, error: Exception) -> NoReturn:
        self.crash_next = None
        raise error

    def _leftovers(self) -> Iterator[str]:
        registry = self.machine.hub.registry
        for name, holder in registry.names.items():
            if holder is self.machine:
                yield f"the name {name!r}"
        for group, members in registry.groups.items():
            if self.machine in members:
                yield f"the group {group!r}"
        for group, watchers in registry.watchers.items():
            if self.machine in watchers:
                yield f"a watch on {group!r}"
        for home in self._households:
            for task in home.tasks:
                yield f"the child task {task.name}"
        if not self.machine.mailbox.closed:
            yield "an open mailbox"

    async def _await(self, callback: str, awaitable: Any) -> Any:
        phases = {"init": "before the start", "terminate": "terminating"}
        self.phase = phases.get(callback, "in a callback")
        try:
            outcome = await awaitable
        except BaseException as error:
            self.note(f"{callback} raised", error)
            raise
        finally:
            self.phase = "waiting"
        self.note(f"{callback} returned", outcome)
        return outcome


class _Told:
    """As long as it lasts, the test sends what it has said already."""

    def __init__(self, observed: Observed) -> None:
        self._observed = observed

    def __enter__(self) -> None:
        self._observed.is_told = True

    def __exit__(self, *exc_info: object) -> None:
        self._observed.is_told = False


class _Awaited:
    """What an ``async def`` callback has returned, observed from the moment it is awaited.

    Whoever gives it up before that closes it, as one closes a coroutine.
    """

    def __init__(self, observe: Callable[[Any], Coroutine[Any, Any, Any]], awaitable: Any) -> None:
        self._observe = observe
        self._awaitable = awaitable

    def __await__(self) -> Generator[Any, Any, Any]:
        return self._observe(self._awaitable).__await__()

    def close(self) -> None:
        """It will not be awaited."""
        getattr(self._awaitable, "close", lambda: None)()


class _ObservedOwner:
    """Stands between a mailbox and its machine, and writes down what the mailbox does."""

    def __init__(self, machine: Machine, observed: Observed) -> None:
        self.machine = machine
        self.note = observed.note
        self.is_sent = observed.is_sent
        self.asked = False  # a sender has asked; what is accepted otherwise is the machine's own

    def accepted(self) -> None:
        self.machine.accepted()

    def overflowed(self, limit: int) -> None:
        self.note("overflows", limit)
        self.machine.overflowed(limit)

    def displaced(self, message: Any, policy: OverflowPolicy) -> None:
        self.note("displaces", content_of(message))
        self.machine.displaced(message, policy)

    def key_crashed(self, error: Exception) -> None:
        self.note("key raised", error)
        self.machine.key_crashed(error)


class _ObservedMailbox(Mailbox):
    """A mailbox that tells what it accepts and refuses."""

    __slots__ = ()

    def put_nowait(self, message: Any) -> bool:
        if self.overdue is not None and not self.closed:
            self.overdue()  # before we say who asked: timers are the machine's own
        before = self.count
        witness = cast("_ObservedOwner", self.owner)
        witness.is_sent(message)
        witness.asked = True
        try:
            accepted = super().put_nowait(message)
        finally:
            witness.asked = False
        if not accepted:
            witness.note("refuses", content_of(message))
        elif self.count == before and isinstance(self, CoalescingMailbox):
            witness.note("replaces", content_of(message))
        return accepted

    def accept(self, message: Any) -> None:
        super().accept(message)
        witness = cast("_ObservedOwner", self.owner)
        witness.note("accepts" if witness.asked else "accepts own", content_of(message))


class _ObservedCoalescingMailbox(_ObservedMailbox, CoalescingMailbox):
    __slots__ = ()


def observe_mailbox(mailbox: Mailbox, machine: Machine, observed: Observed) -> None:
    """Let a mailbox tell, from now on, what it does; it stays the object that it is."""
    coalescing = isinstance(mailbox, CoalescingMailbox)
    mailbox.__class__ = _ObservedCoalescingMailbox if coalescing else _ObservedMailbox
    mailbox.owner = _ObservedOwner(machine, observed)


def stop_observing(mailbox: Mailbox, machine: Machine) -> None:
    """Let it be what it was."""
    coalescing = isinstance(mailbox, CoalescingMailbox)
    mailbox.__class__ = CoalescingMailbox if coalescing else Mailbox
    mailbox.owner = machine
