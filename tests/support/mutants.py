"""Planted bugs: one changed line of the runtime each, to measure what the state machines find.

Laws of this file:

* A bug lives in the memory of the process that plants it, and only inside of its ``with`` block.
* A bug is a line of the source and what replaces it. When the line is not there any more, planting
  is an error: no bug is ever measured that was not planted.
"""

from __future__ import annotations

import inspect
import sys
import textwrap
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any
from unittest import mock

from trioloop._core import _loop
from trioloop._core._hub import HubCore
from trioloop._core._machine import Machine
from trioloop._core._mailbox import CoalescingMailbox, Mailbox
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


@dataclass(frozen=True)
class Change:
    """A line of a function, and what stands there instead.

    Args:
        owner: the class or module that has the function.
        function: its name.
        old: the line, or a part of it that occurs once.
        new: what replaces it.
    """

    owner: Any
    function: str
    old: str
    new: str

    def rewritten(self) -> Callable[..., Any]:
        """The function with the change in it."""
        original = inspect.getattr_static(self.owner, self.function)
        source = textwrap.dedent(inspect.getsource(original))
        if source.count(self.old) != 1:
            raise LookupError(f"{self.function} has {self.old!r} {source.count(self.old)} times")
        code = source.replace(self.old, self.new)
        # super() without arguments looks for __class__ in the function around it.
        nested = (
            f"def make(__class__):\n{textwrap.indent(code, '    ')}\n    return {self.function}"
        )
        names = vars(sys.modules[original.__module__])
        made: dict[str, Any] = {}
        exec(compile(nested, f"<{self.function} with a bug>", "exec"), names, made)
        return made["make"](self.owner)


@dataclass(frozen=True)
class Mutant:
    """A planted bug.

    Args:
        name: what is wrong, in words.
        machine: the machine that finds it.
        laws: the laws that may be told as broken.
        changes: the bug.
        budget: examples within which the test suite must find it.
    """

    name: str
    machine: type[HandlerMachine]
    laws: tuple[int, ...]
    changes: tuple[Change, ...]
    budget: int = 100

    @property
    def slug(self) -> str:
        """The name as a file's."""
        return "".join(c if c.isalnum() else "_" for c in self.name.lower())

    @contextmanager
    def planted(self) -> Iterator[None]:
        """The runtime with this bug in it."""
        with ExitStack() as stack:
            for change in self.changes:
                patch = mock.patch.object(change.owner, change.function, change.rewritten())
                stack.enter_context(patch)
            yield


MUTANTS: tuple[Mutant, ...] = (
    # -- time ------------------------------------------------------------------------------------
    Mutant(
        "idle timer not reset by a message",
        StreamMachine,
        (7,),
        (Change(Machine, "note_silence", "self.silent_since = now", "pass"),),
    ),
    Mutant(
        "timeout beats mail at a tie",
        StreamMachine,
        (3,),
        (
            Change(
                Machine,
                "is_idle",
                "silent = not (self.mailbox.count or self.ahead or self._retries)",
                "silent = True",
            ),
        ),
    ),
    Mutant(
        "message lost at a tie",
        StreamMachine,
        (2, 3),
        (
            Change(
                _loop,
                "take_turns",
                "                if m.woken:",
                "                if m.woken:\n                    m.next_message()",
            ),
        ),
    ),
    Mutant(
        "keepalive moves the idle time",
        StreamMachine,
        (7,),
        (
            Change(
                _loop,
                "look_at_clock",
                "m.output.tick(now)",
                "m.output.tick(now); m.silent_since = now",
            ),
        ),
    ),
    Mutant(
        "alarm not set to an earlier time",
        StreamMachine,
        (7,),
        (
            Change(
                _loop,
                "wait_for_message",
                "if m.next_deadline() < m.alarm_at:",
                'if m.alarm_at == float("inf"):',
            ),
        ),
    ),
    Mutant(
        "hibernation forgets its timers",
        StreamMachine,
        (7,),
        (
            Change(
                _loop,
                "hibernate",
                "await wait_for_message(m)",
                "m.timers = None\n            await wait_for_message(m)",
            ),
        ),
    ),
    Mutant(
        "timer outlives its handler",
        StreamMachine,
        (5,),
        (
            Change(
                Machine,
                "_send_after",
                "    self.timers.start(when, command.message, command.key)",
                "    async def fire():\n"
                "        await trio.sleep_until(when)\n"
                "        if self.mailbox.closed:\n"
                "            self._bury(command.message, self.reason)\n"
                "        else:\n"
                "            self.mailbox.accept(command.message)\n"
                "    if command.key is None:\n"
                "        self.hub._background.start_soon(fire)\n"
                "    else:\n"
                "        self.timers.start(when, command.message, command.key)",
            ),
        ),
    ),
    Mutant(
        "SendAfter with the same key does not replace",
        StreamMachine,
        (5, 7),
        (
            Change(
                Timers,
                "start",
                "self.cancel(key)",
                "key = None if key in self._keys else key",
            ),
        ),
    ),
    # -- messages --------------------------------------------------------------------------------
    Mutant(
        "overflow one too late",
        StreamMachine,
        (3,),
        (Change(Mailbox, "put_nowait", ">= self.limit", "> self.limit"),),
    ),
    Mutant(
        "overflow one too early",
        PollMachine,
        (3,),
        (Change(Mailbox, "put_nowait", ">= self.limit", ">= self.limit - 1"),),
    ),
    Mutant(
        "dead letters dropped",
        StreamMachine,
        (3,),
        (Change(Machine, "bury_all", "[*left, *self.mailbox.drain()]", "left"),),
    ),
    Mutant(
        "Postpone loses the order",
        StreamMachine,
        (2,),
        (Change(Machine, "message_done", "self._retrying or self.handled", "-self.handled"),),
    ),
    Mutant(
        "Then handled after the mailbox",
        StreamMachine,
        (2,),
        (
            Change(
                Machine,
                "next_message",
                "if self.ahead:",
                "if self.ahead and not self.mailbox.count:",
            ),
        ),
    ),
    Mutant(
        "two Thens in the wrong order",
        StreamMachine,
        (2,),
        (Change(Machine, "put_first", "reversed(messages)", "messages"),),
    ),
    Mutant(
        "BLOCK forgets a sender that waits",
        BlockMachine,
        (3,),
        (Change(Mailbox, "_started", "self._blocked.unpark()", "pass"),),
    ),
    Mutant(
        "DROP_OLDEST drops the newest",
        OldestMachine,
        (2, 3),
        (
            Change(
                Mailbox,
                "_displace_oldest",
                "self.owner.displaced(self._receive.receive_nowait(), self.policy)",
                "left = [self._receive.receive_nowait() for _ in range(self.count + 1)]\n"
                "        self.owner.displaced(left.pop(), self.policy)\n"
                "        for message in left:\n"
                "            self._send.send_nowait(message)",
            ),
        ),
    ),
    Mutant(
        "KeepLatest puts the newest last",
        LatestMachine,
        (2, 3),
        (
            Change(
                CoalescingMailbox,
                "put_nowait",
                "older, cell.message = cell.message, message",
                "older = cell.message\n"
                "        cells = [self._receive.receive_nowait() for _ in range(self.count)]\n"
                "        for one in [*(c for c in cells if c is not cell), cell]:\n"
                "            self._send.send_nowait(one)\n"
                "        cell.message = message",
            ),
        ),
    ),
    # -- the end ---------------------------------------------------------------------------------
    Mutant(
        "terminate called twice",
        StreamMachine,
        (4,),
        (
            Change(
                _loop,
                "conclude",
                "    m.over()",
                "    if m.entered and m.silent_since < trio.current_time():\n"
                '        await last_call(m, "terminate", m.handler.terminate, m.reason)\n'
                "    m.over()",
            ),
        ),
    ),
    Mutant(
        "info after the end",
        StreamMachine,
        (3, 4),
        (
            Change(
                _loop,
                "take_turns",
                "                await wait_for_message(m)",
                "                await wait_for_message(m)\n"
                "                if m.reason is not None:\n"
                "                    m.handle(m.next_message())",
            ),
        ),
    ),
    Mutant(
        "terminate not bounded",
        SlowEndMachine,
        (4,),
        (Change(_loop, "last_call", ", deadline=trio.current_time() + limit", ""),),
    ),
    Mutant(
        "crash told as Stopped",
        StreamMachine,
        (4,),
        (Change(Machine, "crash", "self.end(Crashed(error, callback))", "self.end(Stopped())"),),
    ),
    Mutant(
        "group member left behind",
        StreamMachine,
        (5,),
        (Change(Registry, "forget", "self.leave(group, machine)", "pass"),),
    ),
    Mutant(
        "shutdown not noticed",
        StreamMachine,
        (8,),
        (Change(HubCore, "shut_down", "machine.end(ShutDown())", "pass"),),
    ),
    Mutant(
        "cancellation by the server not noticed",
        StockMachine,
        (8,),
        (Change(Link, "attend", "machine.end(ShutDown())", "pass"),),
    ),
    Mutant(
        "disconnect not noticed",
        StreamMachine,
        (8,),
        (Change(Link, "_take", "machine.end(Disconnected())", "pass"),),
    ),
    Mutant(
        "disconnect does not interrupt a callback",
        StreamMachine,
        (8,),
        (
            Change(
                Machine,
                "_is_interrupted_by",
                "return isinstance(reason, INTERRUPTING)",
                "return isinstance(reason, INTERRUPTING[1:])",
            ),
        ),
    ),
    # -- output ----------------------------------------------------------------------------------
    Mutant(
        "output reordered within a batch",
        StreamMachine,
        (9,),
        (Change(HTTPOutput, "_take_parts", 'b"".join(parts)', 'b"".join(reversed(parts))'),),
    ),
    Mutant(
        "output waits for an async callback",
        StreamMachine,
        (9,),
        (Change(Machine, "complete", "if self.output.pending:", "if False:"),),
    ),
    Mutant(
        "send_timeout never fires",
        StreamMachine,
        (8,),
        (
            Change(
                Link,
                "write",
                "due = self._write_due = now + self.send_timeout",
                "due = self._write_due = math.inf",
            ),
        ),
    ),
    Mutant(
        "retry without jitter",
        StreamMachine,
        (8,),
        (
            Change(
                EventStreamOutput,
                "_say_goodbye",
                "self._random.randint(base, 3 * base)",
                "2 * base",
            ),
        ),
    ),
)
"""By what they harm."""
