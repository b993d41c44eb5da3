"""The laws of the machine as an acceptor: it follows a journal and rejects impossible histories.

Laws of this file:

* It is written from the laws, not from the machine: it imports none of it but its values.
* It follows what happened, so every legal outcome of a race is accepted; when nothing can move any
  more it checks what is owed.
* A broken law is told once, at the entry that broke it.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final, NoReturn

from .._core._commands import (
    CancelTimer,
    Continue,
    Hibernate,
    Postpone,
    SendAfter,
    Stop,
    Then,
)
from .._core._errors import BadReturn, SendTimedOut
from .._core._handler import Handler
from .._core._mailbox import NOTHING, KeepLatest, Overflow
from .._core._reasons import (
    Completed,
    Crashed,
    Disconnected,
    Failed,
    Overflowed,
    ShutDown,
    Stopped,
    TerminateReason,
    TimedOut,
)
from .._core._ref import Down
from .._core._registry import Joined, Left
from .._web._commands import Reply
from .._web._event_stream_handler import EventStreamHandler
from .._web._websocket_commands import Close, Send
from .._web._websocket_handler import WebSocketHandler
from .._web._websocket_link import UNHEARD_SECONDS
from .._wire import ServerSentEvent
from ._connection import KEEP_ALIVE
from ._journal import Note

LAWS = {
    1: "callbacks of one handler never overlap",
    2: "messages are handled in the order in which they were accepted",
    3: "an accepted message is handled or becomes a dead letter",
    4: "terminate is called exactly once, and hears the true reason",
    5: "when terminate starts, all that belonged to the handler is gone",
    6: "a crash harms nobody else",
    7: "the idle time runs from the end of a callback to the next message",
    8: "no client holds a handler for longer than its timeouts",
    9: "output is written in the order in which it was returned, and at once",
}


TOLD_OF_THE_TEST = frozenset(("lags", "shuts down", "ends the run"))
"""What the test does to all handlers at once."""


UNABLE = {
    "body": 0.0,
    "bytes": 0.0,
    "end": KEEP_ALIVE,
    "head": math.inf,
    "message": UNHEARD_SECONDS,
    "close": UNHEARD_SECONDS,
}
"""Seconds after ``send_timeout`` for which the stock worker cannot be made to drop the connection,
by the part of the response that waits: to h11 a response whose end waits is complete, so the
connection is kept alive; and a call that returns while its head waits would break the server. Of a
WebSocket it has to be told first."""


@dataclass(frozen=True, slots=True)
class Violation:
    """A broken law.

    Args:
        law: its number in the design.
        sentence: what happened.
        index: of the entry in the journal that broke it; its length when it was found at rest.
        time: virtual seconds.
        who: the handler's name.
    """

    law: int
    sentence: str
    index: int
    time: float
    who: str

    def __str__(self) -> str:
        return f"law {self.law} ({LAWS[self.law]}): t={self.time:g}, {self.who}: {self.sentence}"


class LawBroken(AssertionError):
    """A history that the laws forbid.

    Attributes:
        violation: which law, where and how.
    """

    def __init__(self, violation: Violation) -> None:
        super().__init__(str(violation))
        self.violation = violation


def commands_of(outcome: Any) -> list[Any]:
    """What a callback returned, as a list."""
    if outcome is None:
        return []
    return list(outcome) if type(outcome) in (list, tuple) else [outcome]


class Acceptor:
    """The history of one handler and its client, as far as it has been followed.

    Args:
        handler: read once, for its options.
        who: the handler's name in the journal.
        notice: whether the server tells of its shutdown.
        patience: seconds for which the server waits for a client that takes nothing.
    """

    # As it is before anything has happened.
    running: str | None = None
    current: Any = None
    retrying = 0
    started = 0
    initialised = False
    silent_since = math.inf
    reason: TerminateReason | None = None
    terminated_at: float | None = None
    terminate_over = False
    overflowed = False
    refused: Any = NOTHING  # a message, without need
    displacements_due = 0  # DROP_OLDEST has accepted one more, and is to give one up
    made_room = False  # DROP_OLDEST has given one up, and is to accept one more
    replaced: int | None = None  # KeepLatest: the place of what is being replaced
    ended = False  # it has said so itself, or could see it at once
    senders = 0  # tasks that are in `await ref.send()`
    gone = False
    gone_at = math.inf
    ending_asked = False  # shutdown, cancellation or an operator's stop
    cancelled = False  # the grace is over: the server does not wait for what is written
    told_at = math.inf  # when the handler had to hear of it
    blocked_since: float | None = None
    unable = 0.0  # see UNABLE
    patience = math.inf  # for the write that waits
    unblocked_at = -math.inf
    lag_end = -math.inf
    lag_start = -math.inf
    checked = 0  # events that the client has seen, and that were the right ones
    stalled = False  # its client does not read
    stalled_at = math.inf
    given_up = False  # ... for longer than the server waits
    paused = False  # the handler does not want it now
    received_at = -math.inf  # when a `receive` has returned last
    checked_messages = 0
    _index = 0
    _time = 0.0

    def __init__(
        self, handler: Handler[Any], who: str, *, notice: bool = False, patience: float = math.inf
    ) -> None:
        self.who = who
        self.kind = type(handler)
        self.idle_timeout = handler.idle_timeout
        self.send_timeout = handler.send_timeout
        self.terminate_timeout = handler.terminate_timeout
        self.notice = notice
        self.servers_patience = patience
        self.limit = handler.mailbox_size
        self.policy = handler.overflow
        self.waiting: list[Any] = []  # accepted, not started
        self.first: list[Any] = []  # Then
        self.retries: list[tuple[int, Any]] = []  # put back, and it is their turn
        self.postponed: list[
            tuple[int, Any]
        ] = []  # put back; with the number of the first handling
        self.last_thens: list[Any] = []
        self.letters_owed: list[Any] = []  # displaced, and nobody was told yet
        self.timers: list[tuple[float, Any, Any]] = []
        self.raised: list[BaseException] = []
        self.returned: list[Any] = []
        self.expected_events: list[ServerSentEvent] = []
        self.unreceived: list[str | bytes] = []  # what the client has sent on a WebSocket
        self.expected_messages: list[str | bytes] = []

    # -- following -------------------------------------------------------------------------------

    def follow(self, index: int, note: Note) -> None:
        """Follow what the handler or its client did, one of `STEPS`: the others harm nobody.

        Raises:
            LawBroken: it cannot have happened.
        """
        self._index, (self._time, _, what, detail) = index, note
        STEPS[what](self, detail)

    def _break(self, law: int, sentence: str) -> NoReturn:
        # For all laws, in one line: Hypothesis tells failures apart by where they are raised.
        __tracebackhide__ = True  # by pytest
        raise LawBroken(Violation(law, sentence, self._index, self._time, self.who))

    def _disconnects(self, how: str) -> None:
        if how == "vanish":
            self.stalled_at = min(self.stalled_at, self._time)
        else:
            self._leaves(hidden=bool(self.unreceived))

    def _closes(self, _detail: Any) -> None:
        self._leaves(hidden=self.stalled or bool(self.unreceived))

    def _leaves(self, *, hidden: bool) -> None:
        # What the client has sent before hides it, until its turn has come; so does our answer to
        # its close frame, until it can be written.
        self.gone = True
        self.gone_at = math.inf if hidden else self._time

    def _stalls(self, _detail: Any) -> None:
        self.stalled = True
        self.stalled_at = min(self.stalled_at, self._time)

    def _resumes(self, _detail: Any) -> None:
        self.stalled = False
        self.stalled_at = math.inf
        if self.gone and not self.unreceived:
            self.gone_at = min(self.gone_at, self._time)

    def _sends_data(self, data: str | bytes) -> None:
        self.unreceived.append(data)

    def _bursts(self, data: tuple[str | bytes, ...]) -> None:
        self.unreceived += data

    def _write_waits(self, part: str) -> None:
        self.unable = math.inf if self._refuses_a_websocket(part) else UNABLE[part]
        self.patience = self.send_timeout + self.unable
        self.blocked_since = self._time if self.blocked_since is None else self.blocked_since

    def _refuses_a_websocket(self, part: str) -> bool:
        """The head of a refusal goes out with its body, and waits like one."""
        return part in ("body", "end") and issubclass(self.kind, WebSocketHandler)

    def _write_done(self, _detail: Any) -> None:
        if self.blocked_since is not None:
            self.blocked_since = None
            self.unblocked_at = self._time

    def _is_given_up(self, _detail: Any) -> None:
        self.given_up = True
        if self._time < self.stalled_at + self.servers_patience:
            seconds = f"{self.servers_patience:g} s"
            self._break(
                4, f"the server gave its client up before {seconds} without reading were over"
            )

    def _is_cancelled(self, _detail: Any) -> None:
        self.cancelled = True
        self._tell_to_end()

    def _tell_to_end(self) -> None:
        self.ending_asked = True
        self.told_at = min(self.told_at, self._time)

    def follow_test(self, note: Note) -> None:
        """Follow what the test did, one of `TOLD_OF_THE_TEST`: the others harm nobody."""
        self._time, _, what, detail = note
        if what == "lags":
            self.lag_start, self.lag_end = self._time, self._time + detail
        elif what == "shuts down" and self.notice:
            self._tell_to_end()
        elif what in ("shuts down", "ends the run"):
            self.ending_asked = True

    # -- the mailbox -----------------------------------------------------------------------------

    def _accepts(self, message: Any) -> None:
        if self.reason is not None:
            self._break(3, f"{message!r} was accepted after the end")
        full = len(self.waiting) - self.displacements_due >= self.limit and not self.made_room
        self.made_room = False
        if full and self.policy is Overflow.DROP_OLDEST:
            self.displacements_due += 1  # the oldest was in the loop's hands already
        if full and self.policy not in (Overflow.BLOCK, Overflow.DROP_OLDEST):
            load = f"{len(self.waiting)} of {self.limit}"
            self._break(3, f"{message!r} was accepted although {load} are waiting")
        self.waiting.append(message)

    def _accepts_own(self, message: Any) -> None:
        if self.reason is not None:
            self._break(5, f"{message!r} was accepted after the end")
        if not isinstance(message, (Down, Joined, Left)):
            self._fire_timer(message)
        self.waiting.append(message)

    def _fire_timer(self, message: Any) -> None:
        for index, (due, _, timed) in enumerate(self.timers):
            if timed is message:
                if due > self._time:
                    self._break(7, f"the timer of {message!r} was due at {due:g}")
                del self.timers[index]
                return
        if self.policy is not Overflow.BLOCK:  # else it is a sender's that has waited for room
            self._break(5, f"{message!r} comes from a timer that is not set")

    def _refuses(self, message: Any) -> None:
        if len(self.waiting) < self.limit:
            self.refused = message  # it must be ending, which will show

    def _sends(self, _message: Any) -> None:
        self.senders += 1

    def _has_sent(self, _accepted: Any) -> None:
        self.senders -= 1

    def _overflows(self, limit: int) -> None:
        if len(self.waiting) < self.limit:
            load = f"{len(self.waiting)} of {self.limit}"
            self._break(3, f"the mailbox overflowed with {load} waiting")
        self.overflowed = self.ended = True

    def _displaces(self, message: Any) -> None:
        if isinstance(self.policy, KeepLatest):
            self.replaced = next(i for i, kept in enumerate(self.waiting) if kept is message)
            self.letters_owed.append(message)
            return  # "replaces" follows, with the new message
        oldest = 0
        if self.displacements_due:  # for the one that the loop holds, or while it holds that one
            if self.waiting[0] is message:
                self.displacements_due -= 1
            else:
                oldest = self.displacements_due
        self.made_room = self.displacements_due == oldest  # one for one, also beyond the limit
        if len(self.waiting) <= oldest or self.waiting[oldest] is not message:
            self._break(2, f"{message!r} was displaced, which is not the oldest")
        del self.waiting[oldest]
        self.letters_owed.append(message)

    def _replaces(self, message: Any) -> None:
        if self.replaced is None:
            self._break(2, f"{message!r} replaced nothing")
        self.waiting[self.replaced] = message
        self.replaced = None

    def _dead_letter(self, message: Any) -> None:
        owed = any(letter is message for letter in self.letters_owed)
        if self.running in ("info", "notify") and self.current is message and not owed:
            self.running = None  # an `async def` that never began: a write was still before it
            return
        for pile in (self.letters_owed, self.first, self.waiting):
            for index, kept in enumerate(pile):
                if kept is message:
                    del pile[index]
                    return
        for numbered in (self.retries, self.postponed):
            for index, (_, kept) in enumerate(numbered):
                if kept is message:
                    del numbered[index]
                    return
        if self.terminated_at is not None:
            self._break(5, f"{message!r} became a dead letter after terminate")
        due = [timed for when, _, timed in self.timers if when <= self._time]
        if not any(timed is message for timed in due):
            why = "although it was handled, or never accepted"
            self._break(3, f"{message!r} became a dead letter {why}")

    # -- callbacks -------------------------------------------------------------------------------

    def _starts(self, callback: str) -> None:
        if self.running is not None:
            self._break(1, f"{callback} was called while {self.running} was running")
        if self.terminated_at is not None:
            self._break(4, f"{callback} was called after terminate")
        self.running = callback

    def _init(self, _detail: Any) -> None:
        if self.initialised:
            self._break(4, "init was called twice")
        self.initialised = True
        self._starts("init")

    def _info(self, message: Any) -> None:
        self._starts("info")
        if self._has_ended():
            self._break(3, f"info({message!r}) after the end")
        self.current = message
        self.retrying = 0
        self.started += 1
        if self.first:
            pile = self.first
        elif self.retries:
            self.retrying, put_back = self.retries.pop(0)
            pile = [put_back]
        else:
            pile = self.waiting
        if not pile or pile[0] is not message:
            self._break(2, _out_of_turn(message, pile))
        pile.pop(0)
        if self.displacements_due:
            self._break(2, "the oldest message was not displaced")

    def _has_ended(self) -> bool:
        """Whether the handler must know that it has ended: no message may be handled."""
        knows = self.gone_at < self._time  # at that instant, another task may be the first
        return self.ended or knows or self.terminated_at is not None

    def _idle(self, _detail: Any) -> None:
        if self.waiting:
            self._break(3, f"idle although {list(self.waiting)!r} are waiting")
        if self._has_ended():
            self._break(3, "idle after the end")
        self._starts("idle")
        due = self.silent_since + self.idle_timeout
        late = self.lag_start <= due <= self.lag_end == self._time
        freed = due <= self.unblocked_at == self._time
        busy = due <= self.received_at == self._time  # with what the client had sent
        if not (self._time == due or late or freed or busy):
            silence = self._time - self.silent_since
            self._break(7, f"idle after {silence:g} s, idle_timeout is {self.idle_timeout:g}")

    def _returned(self, outcome: Any) -> None:
        callback, self.running = self.running, None
        self.silent_since = self._time
        self.last_thens = []
        commands = commands_of(outcome)
        self.returned += commands
        if callback == "info":
            self._sort_postponed(postpone=any(isinstance(c, Postpone) for c in commands))
        for command in commands:
            self._carry_out(command)
        self.first[:0] = self.last_thens

    def _receive(self, data: str | bytes) -> None:
        self._starts("receive")
        if self._has_ended():
            self._break(3, f"receive({data!r}) after the end")
        first = self.unreceived[0] if self.unreceived else None
        if type(first) is not type(data) or first != data:
            self._break(2, f"receive({data!r}), but the client's next message is {first!r}")
        self.unreceived.pop(0)
        if self.gone and not (self.unreceived or self.stalled):
            self.gone_at = self._time

    def _received(self, outcome: Any) -> None:
        silent_since = self.silent_since
        self._returned(outcome)
        self.silent_since = silent_since  # what the client sends does not move it
        self.received_at = self._time

    def _sort_postponed(self, *, postpone: bool) -> None:
        if self.postponed and not (postpone and self.retrying):
            self.retries = sorted([*self.retries, *self.postponed], key=_place)
            self.postponed.clear()
        if postpone:
            place = self.retrying or self.started
            self.postponed = sorted([*self.postponed, (place, self.current)], key=_place)

    def _carry_out(self, command: Any) -> None:
        match command:
            case ServerSentEvent():
                if command.data is not None:
                    self.expected_events.append(command)
            case Send(data):
                self.expected_messages.append(data)
            case Stop() | Reply() | Close():
                self.ended = True
            case Continue(idle_timeout=seconds) | Hibernate(idle_timeout=seconds):
                self.idle_timeout = self.idle_timeout if seconds is None else seconds
                if isinstance(command, Continue) and command.receive is not None:
                    self.paused = not command.receive
            case Then(message):
                self.last_thens.append(message)
            case SendAfter(delay, message, key):
                self._forget_timer(key)
                self.timers.append((self._time + delay, key, message))
            case CancelTimer(key):
                self._forget_timer(key)
            case _:
                pass

    def _forget_timer(self, key: Any) -> None:
        if key is not None:
            self.timers = [timer for timer in self.timers if timer[1] != key]

    def _raised(self, error: BaseException) -> None:
        self.running = None
        self._saw_raise(error)

    def _saw_raise(self, error: BaseException) -> None:
        self.raised.append(error)
        self.ended = True

    def _is_stopped(self, _detail: Any) -> None:
        self._tell_to_end()
        self.ended = True

    # -- the end ---------------------------------------------------------------------------------

    def _terminate(self, reason: TerminateReason) -> None:
        if self.terminated_at is not None:
            self._break(4, "terminate was called twice")
        if not self.initialised:
            self._break(4, "terminate was called, but init was not")
        self._starts("terminate")
        self.terminated_at = self._time
        self.reason = reason
        self._check_reason(reason)
        if isinstance(reason, Crashed) and isinstance(reason.error, BadReturn):
            for then in self.last_thens:  # nothing of a bad return was carried out
                self.first = [kept for kept in self.first if kept is not then]
        left = [*self.first, *self.retries, *self.postponed, *self.waiting, *self.letters_owed]
        if left:
            self._break(3, f"terminate started and nobody heard of {left!r}")

    def _check_reason(self, reason: TerminateReason) -> None:
        truth, sentence = _TRUTH[type(reason)](self, reason)
        if not truth:
            self._break(4, f"terminate heard {reason!r}, but {sentence}")

    def _left_behind(self, what: Any) -> None:
        self._break(5, f"terminate started with {what}")

    def _terminate_returned(self, _detail: Any) -> None:
        assert self.terminated_at is not None
        self.running = None
        self.terminate_over = True
        since, limit = self.terminated_at, self.terminate_timeout
        if self._time > max(since + limit, self.lag_end):
            seconds = self._time - since
            self._break(4, f"terminate ran for {seconds:g} s, terminate_timeout is {limit:g}")

    # -- at rest ---------------------------------------------------------------------------------

    def rest(self, index: int, now: float) -> None:
        """Nothing can move until time passes: check what is owed.

        Raises:
            LawBroken: something is overdue.
        """
        self._index, self._time = index, now
        if self.senders:
            self._must_not_forget_senders()
        if self.terminated_at is not None:
            if not self.terminate_over:
                self._must_come_to_its_end(self.terminated_at)
        elif self.initialised and self.blocked_since is not None:
            self._must_not_wait_for_its_reader(self.blocked_since)
        elif self.initialised:
            if self.running is None:
                self._must_not_wait_in_vain()
            self._must_hear_of_its_end()

    @property
    def is_over(self) -> bool:
        """Whether the handler has ended, and nobody waits for it."""
        return self.terminate_over and not self.senders

    def _must_not_forget_senders(self) -> None:
        ended = self.terminated_at is not None
        room = len(self.waiting) < self.limit
        if ended or room:
            why = "the handler has ended" if ended else f"{len(self.waiting)} of {self.limit} wait"
            self._break(3, f"a sender waits for room, and {why}")

    def _must_come_to_its_end(self, since: float) -> None:
        if self._time >= since + self.terminate_timeout:
            timeout = f"terminate_timeout is {self.terminate_timeout:g}"
            self._break(4, f"terminate has run since {since:g}, {timeout}")

    def _must_not_wait_in_vain(self) -> None:
        if self.refused is not NOTHING:
            self._break(3, f"it lives, and has refused {self.refused!r} with room")
        if self.first or self.retries or self.waiting:
            ready = [*self.first, *self.retries, *self.waiting]
            self._break(3, f"the handler waits, although {ready!r} is there")
        if self.unreceived and not self.paused and self.silent_since < math.inf:
            self._break(3, f"the handler waits, although {self.unreceived!r} was sent")
        due = self.silent_since + self.idle_timeout
        if self._time >= due:
            self._break(7, f"idle was due at {due:g} and was not called")
        for due, _, message in self.timers:
            if self._time >= due:
                self._break(7, f"the timer of {message!r} was due at {due:g}")

    def _must_not_wait_for_its_reader(self, since: float) -> None:
        given_up_at = max(since + self.patience, since + 1e-9, self.lag_end + self.unable)
        if self._time >= given_up_at:
            timeout = f"send_timeout is {self.send_timeout:g}"
            self._break(8, f"a write has waited since {since:g}, {timeout}")

    def _must_hear_of_its_end(self) -> None:
        if self.gone and self._time >= self.gone_at + self._slack():
            self._break(8, "the client is gone and the handler does not know")
        if self.ending_asked and self._time >= self.told_at + self._slack():
            self._break(8, f"it was told to end at {self.told_at:g}, and goes on")

    def _slack(self) -> float:
        """Seconds that its ``error`` may take before ``terminate``."""
        own = getattr(self.kind, "error", None)
        stock = getattr(EventStreamHandler, "error", None)
        return 0.0 if own is None or own is stock else self.terminate_timeout

    def check_output(
        self, events: list[ServerSentEvent], messages: list[str | bytes], *, all_of_it: bool
    ) -> None:
        """It rests, and what the client has seen is what was returned, in that order.

        Args:
            events: that the client has seen.
            messages: that it has seen, if it is a WebSocket's.
            all_of_it: whether it has read all that was written.

        Raises:
            LawBroken: it is not.
        """
        if not self.checked == len(events) == len(self.expected_events):
            self._check_events(events)
            if all_of_it:
                self._must_have_written(self.expected_events[self.checked :])
        if not self.checked_messages == len(messages) == len(self.expected_messages):
            self._check_messages(messages)
            if all_of_it:
                self._must_have_written(self.expected_messages[self.checked_messages :])

    def _check_events(self, events: list[ServerSentEvent]) -> None:
        for seen in events[self.checked :]:
            if self.checked == len(self.expected_events):
                self._break(9, f"the client has seen {seen!r}, which nobody returned")
            returned = self.expected_events[self.checked]
            same = _text(seen.data) == _text(returned.data)
            if not same or seen.event != (returned.event or None):
                self._break(9, f"the client has seen {seen!r}, but {returned!r} was to come")
            self.checked += 1

    def _check_messages(self, messages: list[str | bytes]) -> None:
        for seen in messages[self.checked_messages :]:
            returned = self.expected_messages[self.checked_messages :][:1]
            if returned != [seen] or type(returned[0]) is not type(seen):
                self._break(9, f"the client has seen {seen!r}, but {returned!r} was to come")
            self.checked_messages += 1

    def _must_have_written(self, late: Sequence[object]) -> None:
        if late and self.blocked_since is None and self._wrote_all():
            self._break(9, f"{late!r} was returned and is not written")

    def _wrote_all(self) -> bool:
        """Whether everything that was returned had to be written."""
        lost = isinstance(self.reason, (Crashed, Failed, Disconnected, ShutDown))
        return not (lost or self.gone or self.cancelled or self.given_up)

    def finish(self, index: int, now: float) -> None:
        """The run is over.

        Raises:
            LawBroken: something never happened.
        """
        self._index, self._time = index, now
        if self.initialised and self.terminated_at is None:
            self._break(4, "terminate was never called")


def _out_of_turn(message: Any, pile: list[Any]) -> str:
    if not pile:
        return f"info({message!r}), but no message waits"
    another = "another " if repr(pile[0]) == repr(message) else ""
    earlier = next((place for place, kept in enumerate(pile) if kept is message), 0)
    overtaken = f" and it has overtaken {earlier}" if earlier > 1 else ""
    return f"info({message!r}), but the next message is {another}{pile[0]!r}{overtaken}"


def _place(numbered: tuple[int, Any]) -> int:
    return numbered[0]


def _text(data: str | bytes | None) -> str:
    text = data.decode() if isinstance(data, bytes) else data or ""
    return text.replace("\r\n", "\n").replace("\r", "\n")


_Step = Callable[[Acceptor, Any], None]

STEPS: Final[Mapping[str, _Step]] = {
    "accepts": Acceptor._accepts,  # noqa: SLF001
    "accepts own": Acceptor._accepts_own,  # noqa: SLF001
    "refuses": Acceptor._refuses,  # noqa: SLF001
    "overflows": Acceptor._overflows,  # noqa: SLF001
    "displaces": Acceptor._displaces,  # noqa: SLF001
    "replaces": Acceptor._replaces,  # noqa: SLF001
    "dead letter": Acceptor._dead_letter,  # noqa: SLF001
    "init": Acceptor._init,  # noqa: SLF001
    "info": Acceptor._info,  # noqa: SLF001
    "notify": Acceptor._info,  # noqa: SLF001
    "idle": Acceptor._idle,  # noqa: SLF001
    "receive": Acceptor._receive,  # noqa: SLF001
    "receive returned": Acceptor._received,  # noqa: SLF001
    "receive raised": Acceptor._raised,  # noqa: SLF001
    "init returned": Acceptor._returned,  # noqa: SLF001
    "info returned": Acceptor._returned,  # noqa: SLF001
    "notify returned": Acceptor._returned,  # noqa: SLF001
    "idle returned": Acceptor._returned,  # noqa: SLF001
    "init raised": Acceptor._raised,  # noqa: SLF001
    "info raised": Acceptor._raised,  # noqa: SLF001
    "notify raised": Acceptor._raised,  # noqa: SLF001
    "idle raised": Acceptor._raised,  # noqa: SLF001
    "key raised": Acceptor._saw_raise,  # noqa: SLF001
    "left behind": Acceptor._left_behind,  # noqa: SLF001
    "send": Acceptor._sends,  # noqa: SLF001
    "send returned": Acceptor._has_sent,  # noqa: SLF001
    "is stopped": Acceptor._is_stopped,  # noqa: SLF001
    "terminate": Acceptor._terminate,  # noqa: SLF001
    "terminate returned": Acceptor._terminate_returned,  # noqa: SLF001
    "terminate raised": Acceptor._terminate_returned,  # noqa: SLF001
    # What clients and their connections do:
    "disconnects": Acceptor._disconnects,  # noqa: SLF001
    "closes": Acceptor._closes,  # noqa: SLF001
    "stalls": Acceptor._stalls,  # noqa: SLF001
    "resumes": Acceptor._resumes,  # noqa: SLF001
    "sends data": Acceptor._sends_data,  # noqa: SLF001
    "bursts": Acceptor._bursts,  # noqa: SLF001
    "write waits": Acceptor._write_waits,  # noqa: SLF001
    "write done": Acceptor._write_done,  # noqa: SLF001
    "is given up": Acceptor._is_given_up,  # noqa: SLF001
    "is cancelled": Acceptor._is_cancelled,  # noqa: SLF001
}
"""What handlers and their clients do, as far as it matters."""


def _idle_was_due(acceptor: Acceptor, reason: Any) -> tuple[bool, str]:
    if any(isinstance(c, Stop) and c.reason == reason for c in acceptor.returned):
        return True, ""
    return reason.what == "client", "no callback returned it"


def _crashed_truly(acceptor: Acceptor, reason: Any) -> tuple[bool, str]:
    if isinstance(reason.error, BadReturn) or reason.callback == "nursery":
        return True, ""
    return any(e is reason.error for e in acceptor.raised), "no callback raised that"


def _failed_truly(acceptor: Acceptor, reason: Any) -> tuple[bool, str]:
    if not isinstance(reason.error, SendTimedOut):
        return True, ""
    since = acceptor.blocked_since
    waited = acceptor.unblocked_at == acceptor._time or (  # noqa: SLF001 - one thing in two parts
        since is not None and acceptor._time >= since + acceptor.send_timeout  # noqa: SLF001
    )
    return waited or acceptor.given_up, "no write has waited that long"


def _stopped_truly(acceptor: Acceptor, _reason: Any) -> tuple[bool, str]:
    said = any(isinstance(c, (Stop, Reply, Close)) for c in acceptor.returned)
    return said, "no callback returned Stop, Reply or Close"


_TRUTH: dict[type, Callable[[Acceptor, Any], tuple[bool, str]]] = {
    Completed: lambda a, _r: (
        a.silent_since < math.inf and not a.started,
        "init has not returned, or was not the last",
    ),
    Stopped: _stopped_truly,
    TimedOut: _idle_was_due,
    Crashed: _crashed_truly,
    Overflowed: lambda a, r: (
        a.overflowed or r.what != "mailbox",
        "the mailbox was never full",
    ),
    Disconnected: lambda a, _r: (a.gone, "the client is still there"),
    Failed: _failed_truly,
    ShutDown: lambda a, _r: (a.ending_asked, "nobody shut anything down"),
}
