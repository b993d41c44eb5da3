"""The machine: all that is known of one handler while it lives, and the steps of its life.

Laws of this file:

* The first reason wins; only a write that fails while the ending is written replaces it.
* The decision to end and the closing of the mailbox are one step.
* Whoever is outside calls `Machine.end` or puts into the mailbox; all else runs in the handler's
  own task, driven by `_loop`, or for it in the dispatcher's while that task waits.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Awaitable, Hashable
from contextvars import Context
from operator import itemgetter
from typing import TYPE_CHECKING, Any

import trio

from ._errors import HandlerEnded, MessageTooLarge, ReceiveTimedOut
from ._household import Household
from ._mailbox import NOTHING, Mailbox, Notification, OverflowPolicy, Received, make_mailbox
from ._reasons import (
    INTERRUPTING,
    CallbackName,
    Crashed,
    Disconnected,
    Failed,
    Overflowed,
    TerminateReason,
)
from ._ref import Call, Down, HandlerRef, HandlerStatistics, machine_of
from ._registry import Belongings, Member
from ._timers import Timers

if TYPE_CHECKING:
    from ._handler import Handler
    from ._hub import HubCore
    from ._output import Output
    from ._visits import Visit

_NONE: list[Any] = []
"""Shared by machines that postpone nothing; never changed."""

_PLACE = itemgetter(0)

_SHOWN = {"running": "callback", "finishing": "writing"}
"""Phases that others need not tell apart."""


def _is_loss(reason: TerminateReason) -> bool:
    """Whether nothing more can reach the client."""
    if isinstance(reason, Failed):
        return not isinstance(reason.error, MessageTooLarge)
    return isinstance(reason, Disconnected)


class Machine:
    """One handler's life.

    Args:
        handler: the object with the callbacks.
        hub: where it runs.
        output: the client's side.
    """

    __slots__ = (
        "_context",
        "_monitors",
        "_over",
        "_postponed",
        "_retries",
        "_retrying",
        "ahead",
        "alarm_is_late",
        "asleep",
        "awaits",
        "belongings",
        "callback",
        "called",
        "calls",
        "current",
        "data_ready",
        "data_turn",
        "entered",
        "handled",
        "handler",
        "hibernating",
        "household",
        "hub",
        "idle_timeout",
        "left",
        "mailbox",
        "name",
        "output",
        "phase",
        "postpone",
        "reason",
        "ref",
        "resident",
        "scope",
        "silent_since",
        "suspended",
        "task",
        "timers",
        "turns",
        "visits",
        "woken",
    )

    def __init__(self, handler: Handler[Any], hub: HubCore, output: Output) -> None:
        self.handler: Handler[Any] = handler  # until it is over, as its output
        self.name: str = type(handler).__name__  # its class, for people
        self.hub: HubCore = hub
        self.output: Output = output
        self.idle_timeout: float = handler.idle_timeout
        self.mailbox: Mailbox = make_mailbox(handler.mailbox_size, handler.overflow, self)
        self.ref: HandlerRef[Any] = HandlerRef(self, hub.next_serial())
        self.belongings: Belongings | None = None
        self.calls: dict[Call[Any], None] | None = None  # that wait for a reply
        self.timers: Timers | None = None
        self.reason: TerminateReason | None = None
        self.phase: str = "init"
        self.handled: int = 0
        self.entered: bool = False  # init has been called
        self.called: bool = False  # a callback has run since silent_since was noted
        self.callback: CallbackName = "init"  # the one that is being awaited
        self.hibernating: bool = False
        self.asleep: bool = False  # hibernating; and without a task, unless it is resident
        self.resident: bool = False  # it lives in somebody else's task, and keeps that asleep, too
        self.awaits: bool = False  # it has had an async def callback for a message
        self.left: Awaitable[object] | None = None  # what is to be awaited in its own task
        self.turns: int = 0  # since it last waited
        self.suspended: bool = False  # an operator wants nothing to be handled
        self.visits: list[Visit] | None = None  # who wants to look at it between two callbacks
        self.woken: bool = False  # the wait has ended for a look at the clock, or at the nursery
        self.silent_since: float = math.inf  # set when init has returned
        self.task: trio.lowlevel.Task | None = None
        self.household: Household | None = None  # between init and the end, if it has a task
        self.alarm_is_late: bool = True  # a deadline may have come closer than the alarm
        self.scope: trio.CancelScope | None = (
            None  # what an interrupting reason cancels, if anything
        )
        self.current: object = NOTHING  # the message whose callback runs
        self.postpone: bool = False
        self.data_ready: bool = False  # the client has sent something that can be handled
        self.data_turn: bool = (
            False  # what the client sent, not the mailbox, was the last to be asked
        )
        self.ahead: deque[object] | None = None  # handled before the mailbox
        self._retries: list[tuple[int, object]] = _NONE  # postponed, and their turn has come
        self._postponed: list[tuple[int, object]] = _NONE  # in the order of their first handling
        self._retrying = 0  # the place of the current message among those, 0 for a new one
        self._context: Context | None = None  # of the task that it had before it slept
        self._monitors: list[Machine] | None = None
        self._over: trio.Event | None = None
        handler.ref = self.ref
        handler.hub = hub

    def runs_here(self) -> bool:
        """Whether the caller is the handler's own task, that is one of its callbacks."""
        return self.task is not None and self.task is trio.lowlevel.current_task()

    # -- endings ---------------------------------------------------------------------------------

    def end(self, reason: TerminateReason) -> None:
        """End the handler for this reason, unless it has one. Callable from anywhere in Trio.

        A reason that interrupts does so even when it comes second: a callback that runs on after
        an overflow must not hold a shutdown.
        """
        if self.reason is None:
            self.reason = reason
            self.mailbox.close()
            if self.belongings:
                self.hub.registry.forget(self)
        elif self._cannot_finish(reason):
            if isinstance(self.reason, Crashed):
                self.report_crash(self.reason.error, self.reason.callback)
            self.reason = reason  # the ending could not be written
        if self.asleep:
            self._wake_up()
        elif self.phase == "waiting":
            self.mailbox.wake()
        elif self.scope is not None and self.is_interrupted_by(reason):
            self.scope.cancel()

    def cut_off(self) -> None:
        """Nobody attends to the client any more: give up a write, whatever the reason is."""
        if self.scope is not None and self.phase in ("writing", "finishing"):
            self.scope.cancel()

    def _cannot_finish(self, reason: TerminateReason) -> bool:
        lost = (Failed, Disconnected)
        ending = self.phase in ("writing", "finishing") and not isinstance(self.reason, lost)
        return ending and isinstance(reason, lost)

    def is_interrupted_by(self, reason: TerminateReason) -> bool:
        if self.phase in ("writing", "finishing"):  # what was returned is written
            return _is_loss(reason)
        return isinstance(reason, INTERRUPTING)

    def crash(self, error: BaseException, callback: CallbackName) -> None:
        """End with `Crashed`, or report the error when the reason is decided already."""
        if self.reason is None:
            self.end(Crashed(error, callback))
        elif not isinstance(error, ReceiveTimedOut):  # that one is how the reason was told
            self.report_crash(error, callback)

    def report_crash(self, error: BaseException, callback: str) -> None:
        """Report an error that does not end the handler."""
        self.hub.report_crash(self, error, callback)

    def report_end(self) -> None:
        """Report the end of the handler where somebody should know of it."""
        assert self.reason is not None
        self.hub.report_end(self, self.reason)

    def child_crashed(self, group: BaseExceptionGroup[Exception]) -> None:
        """A child task has crashed, or several have."""
        error: BaseException = group
        while isinstance(error, BaseExceptionGroup) and len(error.exceptions) == 1:
            error = error.exceptions[0]
        self.crash(error, "nursery")

    # -- the mailbox's owner ---------------------------------------------------------------------

    def accepted(self) -> None:
        """There is something to do, and it waits."""
        if self.asleep:
            self._wake_up()
        elif self.is_dispatched():
            self.hub.dispatcher.add(self)
        else:
            self.mailbox.wake()

    def is_dispatched(self) -> bool:
        """Whether the dispatcher handles its messages while it waits.

        Its nursery is open by then, for no callback could open it from there. One that awaits would
        have its own task woken all the same.
        """
        home = self.household
        return self.resident and not self.awaits and home is not None and home.nursery is not None

    def overflowed(self, limit: int) -> None:
        self.end(Overflowed("mailbox", limit))

    def displaced(self, message: object, policy: OverflowPolicy) -> None:
        self._bury(message, policy)
        if isinstance(message, Call):
            message.fail(trio.WouldBlock(f"a newer message displaced {message!r}: {policy!r}"))

    def key_crashed(self, error: Exception) -> None:
        self.crash(error, "overflow")

    # -- messages --------------------------------------------------------------------------------

    def tell(self, message: object) -> None:
        """Accept a message of the machine's own beyond ``mailbox_size``."""
        self.accept_due_timers()  # they were first
        if not self.mailbox.closed:
            self.mailbox.accept(message)

    def put_or_bury(self, message: object) -> None:
        """For senders who cannot be told: what is not accepted is a dead letter."""
        try:
            accepted = self.mailbox.put_nowait(message)
        except trio.WouldBlock:
            accepted = False
        if not accepted:
            self._bury(message, self.reason or self.handler.overflow)

    def next_message(self) -> object:
        """The message whose turn it is, or `NOTHING`."""
        self._retrying = 0
        if self.suspended:
            return NOTHING
        if self.ahead:
            return self.ahead.popleft()
        if self._retries:
            self._retrying, message = self._retries.pop(0)
            return message
        if self.timers is not None:
            self.accept_due_timers()
        if self.data_ready:
            return self._alternate()
        return self.mailbox.get_nowait() if self.mailbox.count else NOTHING

    def _alternate(self) -> object:
        """The client and the mailbox take turns, so that neither can starve the other.

        A client that never stops sending lets no wait begin. So where the clock has something due,
        there is `NOTHING`, and the loop looks at it first.
        """
        self.data_turn = not self.data_turn
        if self.mailbox.count:
            return self.output.next_data() if self.data_turn else self.mailbox.get_nowait()
        if self.idle_timeout and self.note_silence() >= self.next_deadline():
            return NOTHING
        return self.output.next_data()

    def put_first(self, *messages: object) -> None:
        """Let these be handled next, in this order."""
        if not messages:
            return
        if self.ahead is None:
            self.ahead = deque()
        self.ahead.extendleft(reversed(messages))

    def message_done(self, message: object) -> Awaitable[None] | None:
        """The callback has returned: messages that were put back may have their turn now.

        Returns:
            What to await, when the client is answered before more of it is heard.
        """
        self.current = NOTHING
        if type(message) is Received:
            writing = self.flush(self.hub.now()) if self.output.pending else None
            self.output.data_done()
            return writing
        if self.postpone or self._postponed:
            self._postpone_or_retry(message)
        return None

    def _postpone_or_retry(self, message: object) -> None:
        if not (self.postpone and self._retrying):
            self._retries, self._postponed = self._put_back(), _NONE
        if self.postpone:
            self.postpone = False
            place = self._retrying or self.handled
            self._postponed = sorted([*self._postponed, (place, message)], key=_PLACE)

    def _put_back(self) -> list[tuple[int, object]]:
        """All that was put back, in the order of its first handling."""
        return sorted([*self._retries, *self._postponed], key=_PLACE)

    def bury_all(self) -> None:
        """Make dead letters of all that was accepted and will not be handled."""
        if self.timers is not None:
            for message in self.timers.due(trio.current_time()):
                self.mailbox.accept(message)
        left = self.mailbox.drain()
        if self.ahead or self._retries or self._postponed:
            left = [*(self.ahead or ()), *(message for _, message in self._put_back()), *left]
            self.ahead = None
            self._retries = self._postponed = _NONE
        assert self.reason is not None
        for message in left:
            self._bury(message, self.reason)

    def _bury(self, message: object, cause: TerminateReason | OverflowPolicy) -> None:
        content = message.message if isinstance(message, Notification) else message
        self.hub.bury(self.ref, content, cause)

    # -- time ------------------------------------------------------------------------------------

    def next_deadline(self) -> float:
        """When the loop has to look up although no message came."""
        deadline = min(self.silent_since + self.idle_timeout, self.output.tick_due)
        return deadline if self.timers is None else min(deadline, self.timers.next_deadline())

    def ring(self) -> None:
        """The alarm has rung: let a waiting loop look at the clock."""
        self.alarm_is_late = True
        self.wake()

    def offer(self) -> None:
        """The client has sent something: it is handled when its turn comes, by `Output.next_data`."""
        self.data_ready = True
        if self.mailbox.unattended:
            self.mailbox.alert()

    def wake(self) -> None:
        """Let a waiting loop look up."""
        if self.asleep:
            self._wake_up()
        elif self.phase == "waiting":
            self.woken = True
            self.mailbox.wake()

    def prepare_to_wait(self) -> None:
        """Let the alarm, the nursery and the end of the handler end what follows.

        The alarm may ring too early, which is cheaper than to move it with every message.
        """
        if self.alarm_is_late:
            self.alarm_is_late = False
            self.output.wake_at(self.next_deadline())
        self.turns = 0
        self.phase = "waiting"

    def fall_asleep(self) -> None:
        """Go on without a task, unless there is something to do."""
        if self.visits is not None:
            self.meet_visits()
        if self.reason is not None or self.has_messages() or self.data_ready:
            return
        assert self.task is not None
        self._context, self.task = self.task.context, None
        self.scope = None
        self.prepare_to_wait()
        self.asleep = self.mailbox.unattended = True

    async def sleep(self) -> None:
        """Wait for what wakes it up, in the task in which it is resident."""
        try:
            await self.mailbox.wait()
        finally:
            self.asleep = self.mailbox.unattended = False
            self.awake()

    def _wake_up(self) -> None:
        if self.resident:
            self.mailbox.wake()
            return
        self.asleep = self.mailbox.unattended = False
        assert self._context is not None
        self._context.run(self.hub.give_task, self)

    def awake(self) -> None:
        """The handler has a task, its first or one more."""
        self.task = trio.lowlevel.current_task()
        self._context = None

    def has_messages(self) -> bool:
        """Whether a message waits for its turn."""
        return bool(self.mailbox.count or self.ahead or self._retries)

    def meet_visits(self) -> None:
        """No callback runs: let those look at the handler who wait for that."""
        visits, self.visits = self.visits, None
        for visit in visits or ():
            visit.meet()

    def suspend(self) -> None:
        """Handle nothing until `resume`; the idle time does not run."""
        self.suspended = True
        self.hibernating = False
        self.silent_since = math.inf

    def resume(self) -> None:
        """Go on after `suspend`; the idle time starts anew."""
        if self.suspended:
            self.suspended = False
            self.restart_silence()
            self.alarm_is_late = True
            self.wake()

    def restart_silence(self) -> None:
        """The idle time runs from now on."""
        if not self.suspended:
            self.silent_since = self.hub.now()

    def is_idle(self, now: float) -> bool:
        """Whether the mailbox has been silent for ``idle_timeout``."""
        return not self.has_messages() and now >= self.silent_since + self.idle_timeout

    def accept_due_timers(self) -> None:
        """Put the messages of timers whose time has come into the mailbox."""
        if self.timers is not None:
            for message in self.timers.due(trio.current_time()):
                if not self.mailbox.closed:
                    self.mailbox.accept(message)

    def note_silence(self) -> float:
        """Remember when the last callback ended: the idle time runs from then.

        Returns:
            Now.
        """
        now = self.hub.now()
        if self.called:
            self.called = False
            self.silent_since = now
        return now

    # -- awaiting ----------------------------------------------------------------------------------

    async def interruptible(self, awaitable: Awaitable[Any]) -> Any:
        """Await something in a task whose waits others may cancel, too.

        A nursery that is in use is not among them: see `Household`.

        Returns:
            What it gave, or `NOTHING` when the machine has interrupted it.
        """
        try:
            used = self.household is not None and self.household.used
            with trio.CancelScope(shield=used) as self.scope:
                if self.reason is not None and self.is_interrupted_by(self.reason):
                    self.scope.cancel()  # it ended while there was no scope yet
                return await awaitable
        finally:
            self.scope = None
        return NOTHING

    # -- output ----------------------------------------------------------------------------------

    def flush(self, now: float) -> Awaitable[None] | None:
        """Write what is pending; a failure ends the handler.

        Returns:
            What to await; `None` when it is written already, and others have had no turn.
        """
        output = self.output
        self.phase = "writing"
        try:
            while output.pending:
                waiting = output.write(now)
                if waiting is not None:
                    return self._flush_slowly(waiting)
                output.written(now)
        except Exception as error:
            self._write_failed(error)
        self.phase = "running"
        return None

    async def _flush_slowly(self, waiting: Awaitable[object] | None) -> None:
        output = self.output
        try:
            while True:
                if self.resident and waiting is not None:
                    if await self.interruptible(waiting) is NOTHING:
                        break
                elif waiting is not None:
                    await waiting
                now = self.hub.now()
                output.written(now)
                if not output.pending:
                    break
                waiting = output.write(now)
        except Exception as error:
            self._write_failed(error)
        self.phase = "running"

    def _write_failed(self, error: Exception) -> None:
        self.end(self.output.reason_for(error))

    def finish_nowait(self) -> bool:
        """Write the ending that the client sees, if that can be done without waiting."""
        assert self.reason is not None
        self.phase = "finishing"
        try:
            return self.output.finish_nowait(self.reason)
        except Exception as error:
            self._write_failed(error)
            return False

    async def finish(self) -> None:
        """Write the ending that the client sees."""
        assert self.reason is not None
        with trio.CancelScope(shield=True) as self.scope:
            self.phase = "finishing"
            try:
                await self.output.finish(self.reason)
            except Exception as error:
                self._write_failed(error)

    # -- child tasks -----------------------------------------------------------------------------

    def use_nursery(self) -> trio.Nursery:
        """The nursery, for callbacks.

        Raises:
            RuntimeError: the handler has not begun, or has ended; or it is somebody else who asks.
        """
        if self.household is None:
            raise RuntimeError("self.nursery lives from init to the end, and there only")
        return self.household.use()

    # -- names, groups, monitors -----------------------------------------------------------------

    def register(self, name: Hashable, *, replace: bool) -> None:
        if self.reason is None:
            self.hub.registry.register(name, self, replace=replace)

    def unregister(self, name: Hashable) -> None:
        self.hub.registry.unregister(name, self)

    def join(self, group: Hashable, meta: Any) -> None:
        if self.reason is None:
            self.hub.registry.join(group, self, meta)

    def leave(self, group: Hashable) -> None:
        self.hub.registry.leave(group, self)

    def watch(self, group: Hashable) -> tuple[Member, ...]:
        if self.reason is None:
            self.hub.registry.watch(group, self)
        return self.hub.registry.members(group)

    def unwatch(self, group: Hashable) -> None:
        self.hub.registry.unwatch(group, self)

    def monitor(self, ref: HandlerRef[Any]) -> None:
        if ref is self.ref:
            raise RuntimeError("a handler cannot monitor itself: terminate hears its end")
        other = machine_of(ref)
        if other.phase == "ended":
            assert other.reason is not None
            self.tell(Down(ref, other.reason))
        else:
            other.be_monitored(self)

    def be_monitored(self, by: Machine) -> None:
        """Tell another handler when this one has ended."""
        self._monitors = self._monitors or []
        self._monitors.append(by)

    # -- the end ---------------------------------------------------------------------------------

    def over(self) -> None:
        """``terminate`` has run: tell those who wait for it."""
        assert self.reason is not None
        self.phase = "ended"
        self.task = self._context = None  # the task may go on with other things
        self.hub.forget(self)
        if self.visits:
            for visit in self.visits:
                visit.give_up()
        if self.calls:
            for call in tuple(self.calls):
                call.fail(HandlerEnded(self.reason))
        if self._monitors:
            for watcher in self._monitors:
                watcher.tell(Down(self.ref, self.reason))
            self._monitors = None
        if self._over is not None:
            self._over.set()
        self.output.ended()
        # A ref lives as long as somebody has it, the handler for one: in a circle with the machine
        # it would wait for the garbage collector, with all that belongs to its request.
        del self.handler, self.output

    async def wait_over(self) -> TerminateReason:
        if self.phase != "ended":
            self._over = trio.Event() if self._over is None else self._over
            await self._over.wait()
        else:
            await trio.lowlevel.checkpoint()
        assert self.reason is not None
        return self.reason

    def _shown_phase(self) -> str:
        if self.suspended and self.reason is None:
            return "suspended"
        return "init" if self.silent_since == math.inf else _SHOWN.get(self.phase, self.phase)

    def statistics(self) -> HandlerStatistics:
        held = len(self.ahead or ()) + len(self._retries) + len(self._postponed)
        return HandlerStatistics(
            phase=self._shown_phase(),
            messages_waiting=self.mailbox.count + held,
            messages_handled=self.handled,
            timers=0 if self.timers is None else len(self.timers),
            hibernating=self.hibernating,
        )
