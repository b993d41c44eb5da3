"""The laws of the machine as an acceptor: it follows a journal and rejects impossible histories.

Laws of this file:

* It is written from the laws, not from the machine: it imports none of it but its values.
* It follows what happened, so every legal outcome of a race is accepted; when nothing can move any
  more it checks what is owed.
* A broken law is told once, at the entry that broke it.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

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
from .._core._mailbox import KeepLatest, Overflow
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
from ._journal import Entry

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
        client: its client's name.
        notice: whether the server tells of its shutdown.
        patience: seconds for which the server waits for a client that takes nothing.
    """

    def __init__(  # noqa: PLR0915 - one line for each thing to remember
        self,
        handler: Handler[Any],
        who: str,
        client: str,
        *,
        notice: bool = False,
        patience: float = math.inf,
    ) -> None:
        self.who = who
        self.client = client
        self.idle_timeout = handler.idle_timeout
        self.send_timeout = handler.send_timeout
        self.terminate_timeout = handler.terminate_timeout
        self.slack = handler.terminate_timeout if _hears_errors(handler) else 0.0
        self.notice = notice
        self.servers_patience = patience
        self.limit = handler.mailbox_size
        self.policy = handler.overflow
        self.waiting: deque[Any] = deque()  # accepted, not started
        self.first: deque[Any] = deque()  # Then
        self.retries: deque[tuple[int, Any]] = deque()  # put back, and it is their turn
        self.postponed: list[
            tuple[int, Any]
        ] = []  # put back; with the number of the first handling
        self.last_thens: list[Any] = []
        self.letters_owed: list[Any] = []  # displaced, and nobody was told yet
        self.timers: list[tuple[float, Any, Any]] = []
        self.running: str | None = None
        self.current: Any = None
        self.retrying = 0
        self.started = 0
        self.initialised = False
        self.silent_since = math.inf
        self.reason: TerminateReason | None = None
        self.terminated_at: float | None = None
        self.terminate_over = False
        self.raised: list[BaseException] = []
        self.returned: list[Any] = []
        self.overflowed = False
        self.refused: Any = None  # a message, without need
        self.displacements_due = 0  # DROP_OLDEST has accepted one more, and is to give one up
        self.made_room = False  # DROP_OLDEST has given one up, and is to accept one more
        self.replaced: int | None = None  # KeepLatest: the place of what is being replaced
        self.ended = False  # it has said so itself, or could see it at once
        self.senders = 0  # tasks that are in `await ref.send()`
        self.gone = False
        self.gone_at = math.inf
        self.ending_asked = False  # shutdown, cancellation or an operator's stop
        self.cancelled = False  # the grace is over: the server does not wait for what is written
        self.told_at = math.inf  # when the handler had to hear of it
        self.blocked_since: float | None = None
        self.unable = 0.0  # see UNABLE
        self.patience = math.inf  # for the write that waits
        self.unblocked_at = -math.inf
        self.lag_end = -math.inf
        self.lag_start = -math.inf
        self.expected_events: list[ServerSentEvent] = []
        self.checked = 0  # events that the client has seen, and that were the right ones
        self.is_websocket = isinstance(handler, WebSocketHandler)
        self.unreceived: deque[str | bytes] = deque()  # what the client has sent on a WebSocket
        self.stalled = False  # its client does not read
        self.stalled_at = math.inf
        self.given_up = False  # ... for longer than the server waits
        self.paused = False  # the handler does not want it now
        self.received_at = -math.inf  # when a `receive` has returned last
        self.expected_messages: list[str | bytes] = []
        self.checked_messages = 0
        self._index = 0
        self._time = 0.0

    # -- following -------------------------------------------------------------------------------

    def follow(self, index: int, entry: Entry) -> None:
        """Follow what the handler or its client did.

        Raises:
            LawBroken: it cannot have happened.
        """
        self._index, self._time = index, entry.time
        if entry.who == self.who:
            step = _STEPS.get(entry.what)
            if step is not None:
                step(self, entry.detail)
        elif entry.what in _OF_CLIENTS:
            self._follow_client(entry)

    def _must(self, fact: bool, law: int, sentence: str, *values: object) -> None:  # noqa: FBT001
        """An assertion; the values are put into its sentence when it is told."""
        __tracebackhide__ = True  # by pytest
        if not fact:
            told = sentence.format(*values) if values else sentence
            raise LawBroken(Violation(law, told, self._index, self._time, self.who))

    def _follow_client(self, entry: Entry) -> None:
        match entry.what:
            case "disconnects" if entry.detail == "vanish":
                self.stalled_at = min(self.stalled_at, entry.time)
            case "disconnects" | "closes":
                self.gone = True
                # What the client has sent before hides it, until its turn has come; so does our
                # answer to its close frame, until it can be written.
                stuck = entry.what == "closes" and self.stalled
                self.gone_at = math.inf if self.unreceived or stuck else entry.time
            case "stalls" | "resumes":
                self._stall(stalled=entry.what == "stalls")
            case "sends data":
                self.unreceived.append(entry.detail)
            case "bursts":
                self.unreceived += entry.detail
            case "write waits":
                self._block(entry)
            case "write done":
                self._unblock()
            case "is given up":
                self._give_up()
            case "is cancelled":
                self.cancelled = True
                self._tell_to_end()
            case _:
                pass

    def _stall(self, *, stalled: bool) -> None:
        self.stalled = stalled
        self.stalled_at = min(self.stalled_at, self._time) if stalled else math.inf
        if self.gone and not (stalled or self.unreceived):
            self.gone_at = min(self.gone_at, self._time)

    def _block(self, entry: Entry) -> None:
        refused = self._refuses_a_websocket(entry)
        self.unable = math.inf if refused else UNABLE[entry.detail]
        self.patience = self.send_timeout + self.unable
        self.blocked_since = entry.time if self.blocked_since is None else self.blocked_since

    def _give_up(self) -> None:
        self.given_up = True
        self._must(
            self._time >= self.stalled_at + self.servers_patience,
            4,
            "the server gave its client up before {:g} s without reading were over",
            self.servers_patience,
        )

    def _refuses_a_websocket(self, entry: Entry) -> bool:
        """The head of a refusal goes out with its body, and waits like one."""
        return self.is_websocket and entry.detail in ("body", "end")

    def _tell_to_end(self, _detail: Any = None) -> None:
        self.ending_asked = True
        self.told_at = min(self.told_at, self._time)

    def _unblock(self) -> None:
        if self.blocked_since is not None:
            self.blocked_since = None
            self.unblocked_at = self._time

    def follow_test(self, entry: Entry) -> None:
        """Follow what the test did, one of `TOLD_OF_THE_TEST`: the others harm nobody."""
        self._time = entry.time
        if entry.what == "lags":
            self.lag_start, self.lag_end = entry.time, entry.time + entry.detail
        elif entry.what == "shuts down" and self.notice:
            self._tell_to_end()
        elif entry.what in ("shuts down", "ends the run"):
            self.ending_asked = True

    # -- the mailbox -----------------------------------------------------------------------------

    def _accepts(self, message: Any) -> None:
        self._must(self.reason is None, 3, "{!r} was accepted after the end", message)
        full = len(self.waiting) - self.displacements_due >= self.limit and not self.made_room
        self.made_room = False
        if full and self.policy is Overflow.DROP_OLDEST:
            self.displacements_due += 1  # the oldest was in the loop's hands already
        self._must(
            not full or self.policy in (Overflow.BLOCK, Overflow.DROP_OLDEST),
            3,
            "{!r} was accepted although {} of {} are waiting",
            message,
            len(self.waiting),
            self.limit,
        )
        self.waiting.append(message)

    def _accepts_own(self, message: Any) -> None:
        self._must(self.reason is None, 5, "{!r} was accepted after the end", message)
        if not isinstance(message, (Down, Joined, Left)):
            self._fire_timer(message)
        self.waiting.append(message)

    def _fire_timer(self, message: Any) -> None:
        for index, (due, _, timed) in enumerate(self.timers):
            if timed is message:
                self._must(due <= self._time, 7, "the timer of {!r} was due at {:g}", message, due)
                del self.timers[index]
                return
        unblocked = self.policy is Overflow.BLOCK  # a sender that has waited for room
        self._must(unblocked, 5, "{!r} comes from a timer that is not set", message)

    def _refuses(self, message: Any) -> None:
        if len(self.waiting) < self.limit:
            self.refused = message  # it must be ending, which will show

    def _sends(self, _message: Any) -> None:
        self.senders += 1

    def _has_sent(self, _accepted: Any) -> None:
        self.senders -= 1

    def _overflows(self, limit: int) -> None:
        self._must(
            len(self.waiting) >= self.limit,
            3,
            "the mailbox overflowed with {} of {} waiting",
            len(self.waiting),
            self.limit,
        )
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
        right = len(self.waiting) > oldest and self.waiting[oldest] is message
        self._must(right, 2, "{!r} was displaced, which is not the oldest", message)
        del self.waiting[oldest]
        self.letters_owed.append(message)

    def _replaces(self, message: Any) -> None:
        self._must(self.replaced is not None, 2, "{!r} replaced nothing", message)
        assert self.replaced is not None
        self.waiting[self.replaced] = message
        self.replaced = None

    def _dead_letter(self, message: Any) -> None:
        owed = any(letter is message for letter in self.letters_owed)
        if self.running in ("info", "notify") and self.current is message and not owed:
            self.running = None  # an `async def` that never began: a write was still before it
            return
        piles: tuple[deque[Any] | list[Any], ...] = (self.letters_owed, self.first, self.waiting)
        for pile in piles:
            for index, kept in enumerate(pile):
                if kept is message:
                    del pile[index]
                    return
        put_back: tuple[deque[tuple[int, Any]] | list[tuple[int, Any]], ...]
        put_back = (self.retries, self.postponed)
        for numbered in put_back:
            for index, (_, kept) in enumerate(numbered):
                if kept is message:
                    del numbered[index]
                    return
        self._must(
            self.terminated_at is None, 5, "{!r} became a dead letter after terminate", message
        )
        due = [timed for when, _, timed in self.timers if when <= self._time]
        self._must(
            any(timed is message for timed in due),
            3,
            "{!r} became a dead letter although it was handled, or never accepted",
            message,
        )

    # -- callbacks -------------------------------------------------------------------------------

    def _starts(self, callback: str) -> None:
        self._must(
            self.running is None, 1, "{} was called while {} was running", callback, self.running
        )
        self._must(self.terminated_at is None, 4, "{} was called after terminate", callback)
        self.running = callback

    def _init(self, _detail: Any) -> None:
        self._must(not self.initialised, 4, "init was called twice")
        self.initialised = True
        self._starts("init")

    def _info(self, message: Any) -> None:
        self._starts("info")
        self._must(not self._has_ended(), 3, "info({!r}) after the end", message)
        self.current = message
        self.retrying = 0
        self.started += 1
        if self.first:
            pile: deque[Any] = self.first
        elif self.retries:
            self.retrying, put_back = self.retries.popleft()
            pile = deque([put_back])
        else:
            pile = self.waiting
        is_next = bool(pile) and pile[0] is message
        self._must(is_next, 2, "{}", "" if is_next else _out_of_turn(message, pile))
        pile.popleft()
        self._must(not self.displacements_due, 2, "the oldest message was not displaced")

    def _has_ended(self) -> bool:
        """Whether the handler must know that it has ended: no message may be handled."""
        knows = self.gone_at < self._time  # at that instant, another task may be the first
        return self.ended or knows or self.terminated_at is not None

    def _idle(self, _detail: Any) -> None:
        self._must(not self.waiting, 3, "idle although {!r} are waiting", list(self.waiting))
        self._must(not self._has_ended(), 3, "idle after the end")
        self._starts("idle")
        due = self.silent_since + self.idle_timeout
        late = self.lag_start <= due <= self.lag_end == self._time
        freed = due <= self.unblocked_at == self._time
        busy = due <= self.received_at == self._time  # with what the client had sent
        self._must(
            self._time == due or late or freed or busy,
            7,
            "idle after {:g} s, idle_timeout is {:g}",
            self._time - self.silent_since,
            self.idle_timeout,
        )

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
        self.first.extendleft(reversed(self.last_thens))

    def _receive(self, data: str | bytes) -> None:
        self._starts("receive")
        self._must(not self._has_ended(), 3, "receive({!r}) after the end", data)
        first = self.unreceived[0] if self.unreceived else None
        self._must(
            type(first) is type(data) and first == data,
            2,
            "receive({!r}), but the client's next message is {!r}",
            data,
            first,
        )
        self.unreceived.popleft()
        if self.gone and not (self.unreceived or self.stalled):
            self.gone_at = self._time

    def _received(self, outcome: Any) -> None:
        silent_since = self.silent_since
        self._returned(outcome)
        self.silent_since = silent_since  # what the client sends does not move it
        self.received_at = self._time

    def _sort_postponed(self, *, postpone: bool) -> None:
        if not (postpone and self.retrying):
            self.retries = deque(sorted([*self.retries, *self.postponed], key=_place))
            self.postponed.clear()
        if postpone:
            place = self.retrying or self.started
            self.postponed = sorted([*self.postponed, (place, self.current)], key=_place)

    def _carry_out(self, command: Any) -> None:
        if isinstance(command, Continue) and command.receive is not None:
            self.paused = not command.receive
        match command:
            case Continue(idle_timeout=seconds) | Hibernate(idle_timeout=seconds):
                self.idle_timeout = self.idle_timeout if seconds is None else seconds
            case Then(message):
                self.last_thens.append(message)
            case SendAfter(delay, message, key):
                self._forget_timer(key)
                self.timers.append((self._time + delay, key, message))
            case CancelTimer(key):
                self._forget_timer(key)
            case Stop() | Reply() | Close():
                self.ended = True
            case Send(data):
                self.expected_messages.append(data)
            case ServerSentEvent():
                if command.data is not None:
                    self.expected_events.append(command)
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
        self._must(self.terminated_at is None, 4, "terminate was called twice")
        self._must(self.initialised, 4, "terminate was called, but init was not")
        self._starts("terminate") if self.terminated_at is None else None
        self.terminated_at = self._time
        self.reason = reason
        self._check_reason(reason)
        if isinstance(reason, Crashed) and isinstance(reason.error, BadReturn):
            for then in self.last_thens:  # nothing of a bad return was carried out
                self.first = deque(kept for kept in self.first if kept is not then)
        left = [*self.first, *self.retries, *self.postponed, *self.waiting, *self.letters_owed]
        self._must(not left, 3, "terminate started and nobody heard of {!r}", left)

    def _check_reason(self, reason: TerminateReason) -> None:
        truth, sentence = _TRUTH[type(reason)](self, reason)
        self._must(truth, 4, "terminate heard {!r}, but {}", reason, sentence)

    def _left_behind(self, what: Any) -> None:
        self._must(False, 5, "terminate started with {}", what)

    def _terminate_returned(self, _detail: Any) -> None:
        assert self.terminated_at is not None
        self.running = None
        self.terminate_over = True
        limit = self.terminated_at + self.terminate_timeout
        self._must(
            self._time <= max(limit, self.lag_end),
            4,
            "terminate ran for {:g} s, terminate_timeout is {:g}",
            self._time - self.terminated_at,
            self.terminate_timeout,
        )

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
            self._must_come_to_its_end(now)
        if self.terminated_at is not None or not self.initialised:
            return
        if self.running is None and self.blocked_since is None:
            self._must_not_wait_in_vain(now)
        if self.blocked_since is not None:
            self._must(
                now < self._blocked_until(),
                8,
                "a write has waited since {:g}, send_timeout is {:g}",
                self.blocked_since,
                self.send_timeout,
            )
        if self.blocked_since is None:
            self._must(
                now < self.gone_at + self.slack or not self.gone,
                8,
                "the client is gone and the handler does not know",
            )
            self._must(
                now < self.told_at + self.slack or self.told_at == math.inf,
                8,
                "it was told to end at {:g}, and goes on",
                self.told_at,
            )

    @property
    def is_over(self) -> bool:
        """Whether the handler has ended, and nobody waits for it."""
        return self.terminate_over and not self.senders

    def _blocked_until(self) -> float:
        """When the write that waits must have been given up."""
        assert self.blocked_since is not None
        since = self.blocked_since
        return max(since + self.patience, since + 1e-9, self.lag_end + self.unable)

    def _must_not_forget_senders(self) -> None:
        ended = self.terminated_at is not None
        room = len(self.waiting) < self.limit
        if ended or room:
            why = "the handler has ended" if ended else f"{len(self.waiting)} of {self.limit} wait"
            self._must(False, 3, "a sender waits for room, and {}", why)

    def _must_come_to_its_end(self, now: float) -> None:
        assert self.terminated_at is not None
        self._must(
            self.terminate_over or now < self.terminated_at + self.terminate_timeout,
            4,
            "terminate has run since {:g}, terminate_timeout is {:g}",
            self.terminated_at,
            self.terminate_timeout,
        )

    def _must_not_wait_in_vain(self, now: float) -> None:
        self._must(
            self.refused is None, 3, "it lives, and has refused {!r} with room", self.refused
        )
        if self.first or self.retries or self.waiting:
            ready = [*self.first, *self.retries, *self.waiting]
            self._must(False, 3, "the handler waits, although {!r} is there", ready)
        unreceived = self.unreceived and not self.paused and self.silent_since < math.inf
        self._must(not unreceived, 3, "the handler waits, although {!r} was sent", self.unreceived)
        due = self.silent_since + self.idle_timeout
        self._must(now < due, 7, "idle was due at {:g} and was not called", due)
        for when, _, message in self.timers:
            self._must(now < when, 7, "the timer of {!r} was due at {:g}", message, when)

    def check_output(
        self, index: int, now: float, events: list[ServerSentEvent], *, all_of_it: bool
    ) -> None:
        """What the client has seen is what was returned, in that order.

        Raises:
            LawBroken: it is not.
        """
        if self.checked == len(events) == len(self.expected_events):
            return
        self._index, self._time = index, now
        while self.checked < len(events):
            seen = events[self.checked]
            more = self.checked < len(self.expected_events)
            self._must(more, 9, "the client has seen {!r}, which nobody returned", seen)
            returned = self.expected_events[self.checked]
            same = _text(seen.data) == _text(returned.data) and seen.event == (
                returned.event or None
            )
            self._must(same, 9, "the client has seen {!r}, but {!r} was to come", seen, returned)
            self.checked += 1
        if all_of_it and self.blocked_since is None and self._wrote_all():
            late = self.expected_events[self.checked :]
            self._must(not late, 9, "{!r} was returned and is not written", late)

    def check_messages(
        self, index: int, now: float, messages: list[str | bytes], *, all_of_it: bool
    ) -> None:
        """What a WebSocket's client has seen is what was returned, in that order.

        Raises:
            LawBroken: it is not.
        """
        if self.checked_messages == len(messages) == len(self.expected_messages):
            return
        self._index, self._time = index, now
        for seen in messages[self.checked_messages :]:
            returned = self.expected_messages[self.checked_messages :][:1]
            right = [type(one) for one in returned] == [type(seen)] and returned == [seen]
            self._must(right, 9, "the client has seen {!r}, but {!r} was to come", seen, returned)
            self.checked_messages += 1
        if all_of_it and self.blocked_since is None and self._wrote_all():
            late = self.expected_messages[self.checked_messages :]
            self._must(not late, 9, "{!r} was returned and is not written", late)

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
        if self.initialised:
            self._must(self.terminated_at is not None, 4, "terminate was never called")


def _hears_errors(handler: Handler[Any]) -> bool:
    """Whether its ``error`` is called, and may take time, before ``terminate``."""
    own = getattr(type(handler), "error", None)
    return own is not getattr(EventStreamHandler, "error", None) and own is not None


def _out_of_turn(message: Any, pile: deque[Any]) -> str:
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


_OF_CLIENTS = frozenset(
    (
        *("disconnects", "closes", "stalls", "resumes", "sends data", "bursts"),
        *("write waits", "write done", "is given up", "is cancelled"),
    )
)
"""What clients and their connections do, as far as it matters."""

_Step = Callable[[Acceptor, Any], None]

_STEPS: dict[str, _Step] = {
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
}


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
