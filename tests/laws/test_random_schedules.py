"""The laws under random schedules: what happens is drawn, and so is who comes first.

Durations are eighths of a second, so that ties are real. Trio's shuffle is the same for every
example; the order in which the actors are spawned, and the checkpoints that each of them lets pass
before it acts, make different interleavings of it.
"""

from __future__ import annotations

import math
from collections import Counter
from dataclasses import dataclass, field
from typing import Any

import pytest
import trio
from hypothesis import given, settings
from hypothesis import strategies as st
from support.fake import run_on_virtual_time, serve

from trioloop import (
    Crashed,
    EventStreamHandler,
    Hibernate,
    KeepLatest,
    LoopHandler,
    Overflow,
    Overflowed,
    SendAfter,
    ServerSentEvent,
    Stop,
    TimedOut,
)

# -- what can happen -------------------------------------------------------------------------------


@dataclass(frozen=True)
class Work:
    """A message: how long its callback takes, and what it does then."""

    number: int
    seconds: float = 0.0
    then: str = "nothing"
    delay: float = 0.0


@dataclass(frozen=True)
class Step:
    """What one actor does: at a time, after some checkpoints, after a time in which nobody runs."""

    at: float
    checkpoints: int
    lag: float
    act: str
    work: tuple[Work, ...] = ()


@dataclass(frozen=True)
class Script:
    streaming: bool
    size: int
    idle_timeout: float
    steps: tuple[Step, ...]


eighths = st.integers(0, 16).map(lambda number: number / 8)


def parity(work):
    return work.number % 2


policies = [*Overflow, KeepLatest(parity)]
endings = ["disconnect", "cancel", "stop"]


def works(thens):
    return st.builds(
        Work,
        st.integers(0, 10**6),
        st.one_of(st.just(0.0), eighths),
        st.sampled_from(thens),
        eighths,
    )


def scripts(thens, acts, lags=eighths):
    """Scripts of which the callbacks do these things, and the actors those."""
    step = st.builds(
        Step,
        eighths,
        st.integers(0, 3),
        st.one_of(st.just(0.0), lags),
        st.sampled_from(["send", "send", *acts]),
        st.lists(works(thens), min_size=1, max_size=4).map(tuple),
    )
    return st.builds(
        Script,
        st.booleans(),
        st.integers(1, 3),
        st.one_of(st.just(math.inf), st.integers(1, 12).map(lambda number: number / 8)),
        st.lists(step, max_size=10).map(tuple),
    )


quiet = ["nothing", "event", "hibernate"]
anything = [*quiet, "crash", "end", "timer"]
every_act = [*endings, "send_waiting", "notify", "cancel_nursery"]

# -- running it ------------------------------------------------------------------------------------


@dataclass
class Journal:
    """What was seen of one run.

    Attributes:
        accepted: the messages that `send_nowait` accepted, in order.
        waited: those that `send` accepted: when exactly, nobody can see.
        timers: the messages that timers may have sent.
        letters: dead letters with their causes.
        taken: how many messages were taken out of the mailbox.
        handled: those whose callback has started: an ``async def`` one waits for pending writes.
        calls: the callbacks, in order.
        sends: of each `send_nowait`: how many messages waited, and the answer.
    """

    accepted: list[Work] = field(default_factory=list)
    waited: list[Work] = field(default_factory=list)
    timers: list[Work] = field(default_factory=list)
    taken: int = 0
    handled: list[Work] = field(default_factory=list)
    letters: list[tuple[Work, Any]] = field(default_factory=list)
    calls: list[str] = field(default_factory=list)
    reasons: list[Any] = field(default_factory=list)
    sends: list[tuple[int, Any, int]] = field(default_factory=list)
    quiet_since: float = 0.0
    ended_at: float = math.nan
    running: int = 0
    overlaps: int = 0

    def waiting(self):
        return len(self.accepted) - self.taken - len(self.letters)


class Actor:
    """The callbacks, for both kinds of handlers."""

    journal: Journal
    is_parent: bool

    def init(self, request):
        self.use_nursery()

    def use_nursery(self):
        if self.is_parent:
            self.children = self.nursery

    def info(self, work):
        self.use_nursery()  # it may be a new one
        self.journal.taken += 1
        if work.seconds:
            return self.take_time(work)
        self.start(work)
        return self.leave(work)

    async def take_time(self, work):
        self.start(work)
        try:
            await trio.sleep(work.seconds)
        except trio.Cancelled:
            self.leave(Work(0))
            raise
        return self.leave(work)

    def start(self, work):
        self.enter("info")
        self.journal.handled.append(work)

    def idle(self):
        self.enter("idle")
        self.leave(Work(0))
        return Stop(TimedOut())

    def terminate(self, reason):
        self.enter("terminate")
        self.leave(Work(0))
        self.journal.reasons.append(reason)
        self.journal.ended_at = trio.current_time()

    def enter(self, callback):
        self.journal.calls.append(callback)
        self.journal.overlaps += self.journal.running
        self.journal.running += 1

    def leave(self, work):
        self.journal.running -= 1
        if self.journal.calls[-1] == "info":
            self.journal.quiet_since = trio.current_time()
        match work.then:
            case "crash":
                raise ValueError(work)
            case "end":
                return Stop()
            case "hibernate":
                return Hibernate()
            case "event" if isinstance(self, EventStreamHandler):
                return ServerSentEvent(str(work.number))
            case "timer":
                message = Work(-work.number - 1)
                self.journal.timers.append(message)
                return SendAfter(work.delay, message)
        return None


class Poll(Actor, LoopHandler):
    pass


class Stream(Actor, EventStreamHandler):
    keepalive = 1.0


class Play:
    """One run of a script.

    Args:
        script: what happens.
        policy: what a full mailbox does.
    """

    def __init__(self, script, policy):
        self.script = script
        self.journal = Journal()
        self.handler = Stream() if script.streaming else Poll()
        self.handler.journal = self.journal
        self.handler.is_parent = any(step.act == "cancel_nursery" for step in script.steps)
        self.handler.overflow = policy
        self.handler.mailbox_size = script.size
        self.handler.idle_timeout = script.idle_timeout

    async def run(self):
        async with serve(dead_letter=self.dead_letter) as client:
            self.exchange = client.run(self.handler)
            while not hasattr(self.handler, "ref"):
                await trio.lowlevel.checkpoint()
            async with trio.open_nursery() as nursery:
                for step in self.script.steps:
                    nursery.start_soon(self.act, step)
                await trio.sleep(6)
                nursery.cancel_scope.cancel()  # senders that wait for room
        return self.journal

    async def act(self, step):
        await trio.sleep_until(step.at)
        for _ in range(step.checkpoints):
            await trio.lowlevel.checkpoint()
        trio.lowlevel.current_clock().jump(step.lag)
        if step.act == "send_waiting":
            await self.send_waiting(step)
        else:
            getattr(self, step.act)(step)

    def dead_letter(self, ref, message, cause):
        self.journal.letters.append((message, cause))

    # -- what actors do --

    def send(self, step):
        self.send_all(step.work, self.handler.ref.send_nowait)

    def notify(self, step):
        self.send_all(step.work, self.handler.ref.notify)

    def cancel_nursery(self, step):
        """Wake the handler up, and send before it can run."""
        statistics = self.handler.ref.statistics()
        if statistics.phase == "waiting" and not statistics.hibernating:
            self.handler.children.cancel_scope.cancel()
        self.send(step)

    async def send_waiting(self, step):
        for work in step.work:
            if await self.handler.ref.send(work):
                self.journal.waited.append(work)

    def stop(self, step):
        self.handler.ref.stop()

    def disconnect(self, step):
        self.exchange.disconnect()

    def cancel(self, step):
        self.exchange.cancel()

    def send_all(self, works, send):
        for work in works:
            waiting = self.journal.waiting()
            try:
                answer = send(work)
            except trio.WouldBlock:
                answer = trio.WouldBlock
            if answer is True:
                self.journal.accepted.append(work)
            self.journal.sends.append((waiting, answer, len(self.journal.handled)))


def play(script, policy):
    """Run a script, and then the shutdown; give what was seen."""
    return run_on_virtual_time(Play(script, policy).run)


law = settings(max_examples=25, deadline=None)
every_policy = pytest.mark.parametrize(
    "policy", policies, ids=lambda policy: getattr(policy, "name", "KeepLatest")
)
plain_policy = pytest.mark.parametrize("policy", list(Overflow), ids=lambda policy: policy.name)

# -- the laws --------------------------------------------------------------------------------------


@every_policy
@law
@given(scripts(anything, every_act))
def test_callbacks_never_overlap(policy, script):
    assert play(script, policy).overlaps == 0


@plain_policy
@law
@given(scripts([*quiet, "crash", "end"], [*endings, "notify", "cancel_nursery"]))
def test_messages_are_handled_in_the_order_of_their_acceptance(policy, script):
    journal = play(script, policy)
    assert is_subsequence(journal.handled, journal.accepted)


def is_subsequence(part, whole):
    rest = iter(whole)
    return all(each in rest for each in part)


@every_policy
@law
@given(scripts(anything, every_act))
def test_every_accepted_message_is_handled_or_a_dead_letter_exactly_once(policy, script):
    journal = play(script, policy)
    accepted = Counter([*journal.accepted, *journal.waited])
    found = Counter([*journal.handled, *(message for message, _ in journal.letters)])
    timers = Counter(journal.timers)
    assert accepted <= found  # none has disappeared
    assert found - accepted <= timers  # none came twice, or from nowhere


@every_policy
@law
@given(scripts(anything, every_act))
def test_terminate_is_called_exactly_once_and_nothing_is_called_after_it(policy, script):
    journal = play(script, policy)
    assert len(journal.reasons) == 1
    assert journal.calls.count("terminate") == 1
    assert journal.calls[-1] == "terminate"


@every_policy
@law
@given(scripts(anything, endings))
def test_after_a_refusal_by_a_handler_that_has_ended_nothing_is_handled(policy, script):
    journal = play(script, policy)
    for waiting, answer, handled in journal.sends:
        if answer is False and waiting < script.size and not journal.timers:
            assert len(journal.handled) == handled


@plain_policy
@law
@given(scripts([*quiet, "end"], ["cancel_nursery"]))
def test_a_mailbox_overflows_exactly_at_its_limit(policy, script):
    journal = play(script, policy)
    full = {
        Overflow.STOP: False,
        Overflow.DROP_NEWEST: False,
        Overflow.DROP_OLDEST: True,
        Overflow.BLOCK: trio.WouldBlock,
    }[policy]
    ended = False
    for waiting, answer, handled in journal.sends:
        if waiting < script.size and answer is False:
            assert len(journal.handled) == handled  # it had ended
            ended = True
        elif not ended:
            # A message that was being handed over is buried a moment after it was displaced.
            assert waiting <= script.size or policy is Overflow.DROP_OLDEST
            assert answer is (True if waiting < script.size else full) or answer is False
    if policy is Overflow.STOP and isinstance(journal.reasons[0], Overflowed):
        assert journal.reasons[0] == Overflowed("mailbox", script.size)
        assert any(waiting == script.size for waiting, _, _ in journal.sends)
    else:
        assert not isinstance(journal.reasons[0], Overflowed)


@every_policy
@law
@given(scripts(quiet, ["cancel_nursery"], lags=st.just(0.0)))
def test_an_idle_handler_ends_exactly_after_its_idle_timeout(policy, script):
    journal = play(script, policy)
    if journal.reasons == [TimedOut()]:
        assert journal.ended_at == journal.quiet_since + script.idle_timeout
        assert "idle" in journal.calls
    else:
        assert "idle" not in journal.calls


@every_policy
@law
@given(scripts(anything, every_act))
def test_the_reason_is_one_that_something_in_the_script_explains(policy, script):
    [reason] = play(script, policy).reasons
    acts = {step.act for step in script.steps}
    thens = {work.then for step in script.steps for work in step.work}
    match reason:
        case Crashed(error):
            assert "crash" in thens
            assert isinstance(error, ValueError)
        case Overflowed():
            assert not isinstance(policy, Overflow) or policy is Overflow.STOP
        case TimedOut():
            assert script.idle_timeout < math.inf
        case _:
            name = type(reason).__name__
            assert name in {"ShutDown", "Disconnected", "Stopped"}
            assert name != "Disconnected" or "disconnect" in acts
            assert name != "Stopped" or "end" in thens
