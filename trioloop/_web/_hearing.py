"""How a link hears of its client: two ways.

`ByReceive`, under any server: the ASGI call sits in ``receive()``, and the handler has a task of its
own, in the hub's nursery. The call returns when the handler has ended or a write has overrun its
time: under a server that shields its writes, that return is what frees a stuck one.

`ByPush`, under a server with the extension ``trioloop.listen``: the server says what comes as soon as
it comes, so nobody has to sit and wait for it, and the handler lives in the ASGI call itself. A poll
and a WebSocket's message cost one task switch in place of three.

Law of this file: whatever the way, everything is heard while a callback runs, and a call that is
cancelled ends its handler with `ShutDown`.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, Final, Protocol

import trio
from starlette.types import Message, Receive, Scope

from .._core._alarms import Alarm
from .._core._errors import ResponseAborted
from .._core._loop import run_handler
from .._core._reasons import Disconnected, ShutDown

if TYPE_CHECKING:
    from .._core._machine import Machine
    from ._link import Link

LISTEN_EXTENSION: Final = "trioloop.listen"
"""The scope extension of a server that says by itself what comes, see trioloop/server/_scope.py."""
FAREWELL_SECONDS: Final = 1.0
"""How long the ending may take when the server cancels the call without notice."""


class Hearing(Protocol):
    """One of the two ways."""

    resident: bool
    """Whether the handler lives in the ASGI call."""

    async def attend(self, machine: Machine) -> None:
        """Be the ASGI call, until the handler has ended.

        Raises:
            ResponseAborted: the server shall cut the connection.
        """

    def look_by(self, when: float) -> None:
        """Have the link look at the clock at this time, or earlier."""

    def read_on(self) -> None:
        """The link has room again for what the client sends."""

    def finished(self) -> None:
        """The ending is written."""

    def cut(self) -> None:
        """The response will not be completed: the client shall know."""

    def give_up(self) -> None:
        """Nobody waits for the client any more."""

    def release(self) -> None:
        """The call may return."""


def hearing_of(link: Link, scope: Scope, receive: Receive) -> Hearing:
    """The better way that there is."""
    extensions: Mapping[str, Any] = scope.get("extensions") or {}
    extension = extensions.get(LISTEN_EXTENSION)
    if extension is not None and extension["is_own"](receive) and extension["is_free"]():
        return ByPush(link, extension)
    return ByReceive(link, receive)  # perhaps a middleware wants to see what comes


class ByReceive:
    """Hears by ASGI's ``receive``.

    Args:
        link: who wants to hear.
        receive: the server's ``receive``.
    """

    resident = False

    __slots__ = ("_farewell", "_finished", "_link", "_receive", "_released", "_room", "_scope")

    def __init__(self, link: Link, receive: Receive) -> None:
        self._link = link
        self._receive = receive
        self._scope: trio.CancelScope | None = None
        self._room: trio.Event | None = None
        self._released = False
        self._finished = False
        self._farewell: trio.Event | None = None

    async def attend(self, machine: Machine) -> None:
        link = self._link
        try:
            await self._listen(machine)
        except Exception:
            machine.end(Disconnected())
            raise
        except BaseException:  # cancelled, perhaps inside of an exception group
            machine.end(ShutDown())
            if not (self._finished or link.is_writing):
                with trio.CancelScope(shield=True) as scope:
                    scope.deadline = trio.current_time() + FAREWELL_SECONDS
                    self._farewell = trio.Event()
                    await self._farewell.wait()
            machine.cut_off()
            raise
        if link.aborted:
            raise ResponseAborted("the response cannot be completed; the reason has been logged")

    async def _listen(self, machine: Machine) -> None:
        link = self._link
        while not machine.entered and machine.reason is None:
            await trio.lowlevel.checkpoint()  # until init can have begun to read: two at most
        while not self._released:
            with trio.CancelScope(deadline=link.next_look()) as self._scope:
                while True:
                    if link.deaf:
                        await trio.sleep_forever()
                    elif link.is_full():
                        link.note_full()
                        self._room = trio.Event()
                        await self._room.wait()
                    else:
                        link.take(await self._receive())
            if link.look():
                break
        await link.linger(self._receive)

    def look_by(self, when: float) -> None:
        if self._scope is not None and when < self._scope.deadline:
            self._scope.deadline = when

    def read_on(self) -> None:
        if self._room is not None:
            self._room.set()

    def finished(self) -> None:
        self._finished = True
        if self._farewell is not None:
            self._farewell.set()

    def cut(self) -> None:
        self.release()

    def give_up(self) -> None:
        """The call has returned long ago."""

    def release(self) -> None:
        self._released = True
        if self._scope is not None:
            self._scope.cancel()


class ByPush:
    """Hears from the server, while the handler lives in the ASGI call.

    Args:
        link: who wants to hear.
        extension: ``trioloop.listen``.
    """

    resident = True

    __slots__ = (
        "_alarm",
        "_cancelled",
        "_early",
        "_extension",
        "_later",
        "_link",
        "_machine",
        "_resume",
        "_waits",
    )

    def __init__(self, link: Link, extension: Mapping[str, Any]) -> None:
        self._link = link
        self._extension = extension
        self._machine: Machine | None = None
        self._alarm: Alarm | None = None
        self._resume: Callable[[], None] | None = None
        self._early: Message | None = None  # came before init could begin to read
        self._waits = False  # the server, for room
        self._later: Message | None = None  # ... but it had more to say
        self._cancelled = False  # what becomes of the client now is the server's doing, or our own

    async def attend(self, machine: Machine) -> None:
        link = self._link
        self._machine = machine
        self._alarm = Alarm(machine.hub.clock, self._look)
        try:
            self._extension["cancelled"](self._end_soon)
            self._resume = self._extension["listen"](self._take)
        except BaseException:  # somebody else has begun to listen
            machine.end(Disconnected())
            raise
        finally:  # whatever happens, it was started and has to end
            try:
                await run_handler(machine)
            finally:
                self._alarm.stop()
                # What the server still has to say is for nobody. Without a circle of the link and
                # this, what belongs to the request does not wait for the garbage collector.
                self._machine = self._resume = None
                del self._link
        if link.aborted:
            raise ResponseAborted("the response cannot be completed; the reason has been logged")

    def _take(self, message: Message) -> bool:
        if self._machine is None or self._cancelled:
            return True
        link = self._link
        if link.is_writing and self._write_is_cancelled():
            return True
        if self._waits:
            self._later = message  # that it is over, behind what is unread
            return True
        if not self._machine.entered and message.get("body"):
            self._early = message
            self.look_by(trio.current_time())
            return False
        if self._early is not None:
            self._take_early()
        link.take(message)
        self._waits = link.is_full()
        if self._waits:
            link.note_full()
        return not self._waits

    def _write_is_cancelled(self) -> bool:
        """Whether it is with a write of our own, which was cancelled, that the client was lost."""
        assert self._machine is not None
        if not self._machine.runs_here():
            return False
        self._cancelled = trio.current_effective_deadline() == -math.inf
        if self._cancelled:
            self._machine.end(ShutDown())
        return self._cancelled

    def _take_early(self) -> None:
        early, self._early = self._early, None
        if early is not None:
            self._link.take(early)
            self._waits = True

    def _look(self) -> None:
        if self._early is not None:
            self._take_early()
            if self._link.is_full():
                self._link.note_full()
            else:
                self.read_on()
        self._link.look()
        self.read_on()  # if what was unread has been given up
        self.look_by(self._link.next_look())

    def _end_soon(self) -> None:
        if self._machine is None:
            return
        self._cancelled = True
        self._machine.end(ShutDown())
        if self._link.is_writing:
            self._machine.cut_off()
        else:
            self._link.cut_off_at(trio.current_time() + FAREWELL_SECONDS)

    def look_by(self, when: float) -> None:
        if self._alarm is not None and when < self._alarm.due:
            self._alarm.ring_at(when)

    def read_on(self) -> None:
        if not self._waits or self._resume is None or self._link.is_full():
            return
        self._waits = False
        later, self._later = self._later, None
        if later is not None:
            self._link.take(later)
        else:
            self._resume()

    def finished(self) -> None:
        """Nobody waits for it but the call itself."""

    def cut(self) -> None:
        self._cancelled = True
        if self._link.dropped:
            self.give_up()  # nobody waits any longer for a client that takes nothing
        elif "cut" in self._extension:  # a WebSocket has none
            self._extension["cut"]()

    def give_up(self) -> None:
        self._extension["abandon"]()

    def release(self) -> None:
        """The call returns by itself."""
