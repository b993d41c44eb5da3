"""Planted bugs of the runtime, to measure what the state machines find.

Laws of this file:

* A bug lives in the memory of the process that plants it, and only inside of its ``with`` block.
* A bug is a function that stands in for one named function of the runtime and is given the original.
  When that name is gone, planting is an error; when nobody calls it any more, `Mutant.calls` says so:
  no bug is ever measured that was not planted.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any
from unittest import mock

import trio

from trioloop import Disconnected, Failed, Overflow, ShutDown, Stopped
from trioloop._core import _callbacks, _loop, _machine
from trioloop._core._hub import HubCore
from trioloop._core._machine import Machine
from trioloop._core._mailbox import NOTHING, CoalescingMailbox, Mailbox
from trioloop._core._ref import machine_of
from trioloop._core._registry import Registry
from trioloop._core._timers import Timers
from trioloop._web._link import Link
from trioloop._web._output import EventStreamOutput, HTTPOutput
from trioloop.testing._machine import HandlerMachine

from .machines import (
    BlockMachine,
    LatestMachine,
    OldestMachine,
    PollMachine,
    SlowEndMachine,
    StockMachine,
    StreamMachine,
)


@dataclass(eq=False)
class Mutant:
    """A planted bug.

    Args:
        name: what is wrong, in words.
        owner: the class or module of the function that is exchanged.
        function: its name there.
        bug: what stands there instead; its first argument is the original.
        machine: the machine that finds it.
        laws: the laws that may be told as broken.
        calls: how often the exchanged function was called.
    """

    name: str
    owner: Any
    function: str
    bug: Callable[..., Any]
    machine: type[HandlerMachine]
    laws: frozenset[int]
    calls: int = field(default=0, init=False)

    @property
    def slug(self) -> str:
        """The name as a file's."""
        return "".join(c if c.isalnum() else "_" for c in self.name.lower())

    @contextmanager
    def planted(self) -> Iterator[None]:
        """The runtime with this bug in it.

        Raises:
            LookupError: there is no such function.
        """
        original = vars(self.owner).get(self.function)
        if original is None:
            raise LookupError(f"{self.owner.__name__} has no {self.function} of its own any more")
        self.calls = 0

        @functools.wraps(original)
        def exchanged(*args: Any, **kwargs: Any) -> Any:
            self.calls += 1
            return self.bug(original, *args, **kwargs)

        with mock.patch.object(self.owner, self.function, exchanged):
            yield


MUTANTS: list[Mutant] = []
"""By what they harm: time, messages, the end, output."""


def bug(
    name: str,
    owner: Any,
    function: str,
    *laws: int,
    found_by: type[HandlerMachine] = StreamMachine,
) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """Add the decorated function to the planted bugs."""

    def add(stand_in: Callable[..., Any]) -> Callable[..., Any]:
        MUTANTS.append(Mutant(name, owner, function, stand_in, found_by, frozenset(laws)))
        return stand_in

    return add


class Deaf:
    """A machine that does not hear of one reason to end."""

    def __init__(self, machine: Machine, reason: type) -> None:
        self._machine = machine
        self._reason = reason

    def __getattr__(self, name: str) -> Any:
        return getattr(self._machine, name)

    def end(self, reason: Any) -> None:
        if not isinstance(reason, self._reason):
            self._machine.end(reason)


def owner_of(mailbox: Mailbox) -> Any:
    """The machine behind a mailbox, which is under observation."""
    return getattr(mailbox.owner, "machine", mailbox.owner)


def buffered(mailbox: Mailbox) -> list[Any]:
    """Take out what waits in a mailbox's channel."""
    size = mailbox._receive.statistics().current_buffer_used
    return [mailbox._receive.receive_nowait() for _ in range(size)]


def put_back(mailbox: Mailbox, messages: list[Any]) -> None:
    for message in messages:
        mailbox._send.send_nowait(message)


# -- time ------------------------------------------------------------------------------------------


@bug("idle timer not reset by a message", Machine, "note_silence", 7)
def idle_timer_runs_on(original, machine):
    since = machine.silent_since
    now = original(machine)
    machine.silent_since = since
    return now


@bug("timeout beats mail at a tie", Machine, "is_idle", 3)
def idle_whatever_waits(_original, machine, now):
    return now >= machine.silent_since + machine.idle_timeout


@bug("message lost at a tie", Mailbox, "wait", 2, 3)
async def forgets_what_it_was_given(original, mailbox):
    await original(mailbox)
    if owner_of(mailbox).woken and mailbox.count:  # woken, and given a message in that moment
        mailbox.get_nowait()


@bug("keepalive moves the idle time", EventStreamOutput, "tick", 7)
def life_of_a_keepalive(original, output, now):
    original(output, now)
    machine_of(output._handler.ref).silent_since = now


@bug("alarm not set to an earlier time", HTTPOutput, "wake_at", 7)
def only_the_first_alarm(original, output, deadline):
    if output._link._alarm == math.inf:
        original(output, deadline)


@bug("hibernation forgets its timers", Machine, "fall_asleep", 7)
def sleeps_too_deep(original, machine):
    original(machine)
    if machine.asleep:
        machine.timers = None


@bug("timer outlives its handler", Machine, "bury_all", 5)
def timers_live_on(original, machine):
    original(machine)
    timers, background = machine.timers, machine.hub._nursery

    async def fire() -> None:
        while (when := timers.next_deadline()) < math.inf:
            await trio.sleep_until(when)
            for message in timers.due(when):
                machine.hub.bury(machine.ref, message, machine.reason)

    if timers is not None and not machine.hub.draining:
        background.start_soon(fire, name="timers")


@bug("SendAfter with the same key does not replace", Timers, "start", 5, 7)
def both_timers(original, timers, when, message, key):
    original(timers, when, message, None if key in timers._keys else key)


# -- messages --------------------------------------------------------------------------------------


@bug("overflow one too late", _machine, "make_mailbox", 3)
def one_more(original, limit, policy, owner):
    return original(limit + 1, policy, owner)


@bug("overflow one too early", _machine, "make_mailbox", 3, found_by=PollMachine)
def one_less(original, limit, policy, owner):
    return original(limit - 1, policy, owner)


@bug("dead letters dropped", Mailbox, "drain", 3)
def drained_and_gone(original, mailbox):
    original(mailbox)
    return []


@bug("Postpone loses the order", Machine, "message_done", 2)
def last_first(original, machine, message):
    original(machine, message)
    machine._retries = machine._retries[::-1]


@bug("Then handled after the mailbox", Machine, "next_message", 2)
def then_is_last(original, machine):
    if not machine.mailbox.count:
        return original(machine)
    ahead, machine.ahead = machine.ahead, None
    try:
        return original(machine)
    finally:
        machine.ahead = ahead


@bug("two Thens in the wrong order", Machine, "put_first", 2)
def second_first(original, machine, *messages):
    original(machine, *reversed(messages))


@bug("BLOCK forgets a sender that waits", Mailbox, "get_nowait", 3, found_by=BlockMachine)
def nobody_is_woken(original, mailbox):
    blocked, mailbox._blocked = mailbox._blocked, None
    try:
        return original(mailbox)
    finally:
        mailbox._blocked = blocked


@bug("DROP_OLDEST drops the newest", Mailbox, "_displace_oldest", 2, 3, found_by=OldestMachine)
def drops_the_newest(original, mailbox):
    messages = buffered(mailbox)
    put_back(mailbox, messages[-1:] + messages[:-1])
    original(mailbox)


@bug("DROP_OLDEST tells nobody", Machine, "displaced", 3, found_by=OldestMachine)
def displaced_and_gone(original, machine, message, policy):
    if policy is not Overflow.DROP_OLDEST:
        original(machine, message, policy)


@bug(
    "KeepLatest puts the newest last", CoalescingMailbox, "put_nowait", 2, 3, found_by=LatestMachine
)
def to_the_end_of_the_queue(original, mailbox, message):
    before = mailbox.count
    accepted = original(mailbox, message)
    if accepted and mailbox.count == before:  # it took the place of another
        cells = buffered(mailbox)
        put_back(mailbox, sorted(cells, key=lambda cell: getattr(cell, "message", 0) is message))
    return accepted


# -- the end ---------------------------------------------------------------------------------------


@bug("terminate called twice", _loop, "last_call", 4)
async def once_more(original, machine, callback, function, *args):
    await original(machine, callback, function, *args)
    if callback == "terminate" and isinstance(machine.reason, Failed):
        await original(machine, callback, function, *args)


@bug("info after the end", Mailbox, "wait", 3, 4)
async def one_for_the_road(original, mailbox):
    await original(mailbox)
    machine = owner_of(mailbox)
    if machine.reason is not None:
        message = machine.next_message()
        awaitable = None if message is NOTHING else _callbacks.handle(machine, message)
        if awaitable is not None:
            await _callbacks.complete(machine, awaitable)


@bug("terminate not bounded", _loop, "last_call", 4, found_by=SlowEndMachine)
async def takes_its_time(original, machine, callback, function, *args):
    machine.handler.terminate_timeout = math.inf
    await original(machine, callback, function, *args)


@bug("crash told as Stopped", Machine, "crash", 4)
def all_is_well(original, machine, error, callback):
    if machine.reason is None:
        machine.end(Stopped())
    else:
        original(machine, error, callback)


@bug("a crash ends its neighbours", Machine, "crash", 4)
def pulls_others_along(original, machine, error, callback):
    original(machine, error, callback)
    for other in tuple(machine.hub._machines):
        other.end(ShutDown())


@bug("group member left behind", Registry, "leave", 5)
def stays_a_member(_original, registry, group, machine):
    """Once a member, always a member."""


@bug("shutdown not noticed", HubCore, "drain_after", 8)
def does_not_listen_to_the_server(_original, hub, wait):
    """The server's notice falls on deaf ears."""


@bug("cancellation by the server not noticed", Link, "attend", 7, 8, found_by=StockMachine)
async def does_not_feel_the_cancellation(original, link, machine):
    await original(link, Deaf(machine, ShutDown))


@bug("disconnect not noticed", Link, "_take", 8)
def does_not_see_it_leave(original, link, message, machine):
    original(link, message, Deaf(machine, Disconnected))


@bug("disconnect does not interrupt a callback", Machine, "is_interrupted_by", 8)
def works_for_nobody(original, machine, reason):
    busy = machine.phase == "callback" and isinstance(reason, Disconnected)
    return not busy and original(machine, reason)


# -- output ----------------------------------------------------------------------------------------


@bug("output reordered within a batch", HTTPOutput, "_take_parts", 9)
def backwards(original, output):
    output._parts.reverse()
    return original(output)


@bug("output waits for an async callback", _loop, "complete", 9)
async def writes_later(original, machine, awaitable):
    held, machine.output.pending = machine.output.pending, 0
    try:
        await original(machine, awaitable)
    finally:
        machine.output.pending += held


@bug("send_timeout never fires", Link, "write", 8)
def waits_for_ever(original, link, *args):
    link.send_timeout = math.inf
    return original(link, *args)


class Middle:
    """A source of jitter that has none."""

    def randint(self, low: int, high: int) -> int:
        return (low + high) // 2


@bug("retry without jitter", EventStreamOutput, "_say_goodbye", 8)
def all_at_once(original, output, reason):
    output._random = Middle()
    original(output, reason)
