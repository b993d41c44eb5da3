"""`HandlerRef`: what others hold to reach a handler.

Laws of this file:

* Sending never fails because the handler has ended: it returns ``False``.
* Nothing here waits for a callback, except what says so by ``await``.
* A handler cannot wait for itself: that is a `RuntimeError` at once, not a deadlock.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any, Generic, final

import trio
from typing_extensions import TypeVar

from ._commands import check_seconds
from ._errors import HandlerEnded
from ._mailbox import Notification
from ._reasons import ShutDown, TerminateReason
from ._visits import state_of, visit

if TYPE_CHECKING:
    from ._machine import Machine

MessageT = TypeVar("MessageT", default=Any, contravariant=True)


@final
@dataclass(frozen=True, slots=True)
class HandlerStatistics:
    """A look at one handler.

    Args:
        phase: ``"init"``, ``"waiting"``, ``"suspended"``, ``"callback"``, ``"writing"``,
            ``"terminating"`` or ``"ended"``.
        messages_waiting: accepted and not yet started.
        messages_handled: started so far.
        timers: own timers that have not fired.
        hibernating: whether it waits with as little memory as possible.
    """

    phase: str
    messages_waiting: int
    messages_handled: int
    timers: int
    hibernating: bool


@final
@dataclass(frozen=True, slots=True)
class Down:
    """Message to those who ``monitor`` a handler: it has ended, and its ``terminate`` has run."""

    ref: HandlerRef[Any]
    reason: TerminateReason


def machine_of(ref: HandlerRef[Any]) -> Machine:
    """The machine behind a ref, for the machine's own files."""
    return ref._machine  # noqa: SLF001 - the two are one thing seen from two sides


class HandlerRef(Generic[MessageT]):
    """The address of one handler. Hashable, comparable by identity, valid for ever.

    Attributes:
        id: a string that is unique across processes.
    """

    __slots__ = ("__weakref__", "_machine", "_serial")

    def __init__(self, machine: Machine, serial: int) -> None:
        self._machine = machine
        self._serial = serial

    @property
    def id(self) -> str:
        return f"{self._machine.hub.id}.{self._serial}"

    def __repr__(self) -> str:
        return f"<HandlerRef {self._machine.name} {self.id}>"

    def send_nowait(self, message: MessageT) -> bool:
        """Send a message without waiting.

        Args:
            message: what ``info`` gets.

        Returns:
            Whether the mailbox accepted it: ``False`` when the handler has ended or its full
            mailbox refuses.

        Raises:
            trio.WouldBlock: the mailbox is full under ``Overflow.BLOCK``.
            RuntimeError: called from another thread.
        """
        self._machine.hub.check_thread()
        return self._machine.mailbox.put_nowait(message)

    async def send(self, message: MessageT) -> bool:
        """Send a message; under ``Overflow.BLOCK`` wait until the mailbox has room.

        Returns:
            Whether the mailbox accepted it.

        Raises:
            RuntimeError: a callback would wait for room in its own mailbox.
        """
        machine = self._machine
        if machine.runs_here():
            await trio.lowlevel.checkpoint_if_cancelled()
            try:
                accepted = machine.mailbox.put_nowait(message)
            except trio.WouldBlock:
                raise RuntimeError(
                    "a handler cannot wait for room in its own full mailbox;"
                    " use self.ref.send_nowait() or return Then(message)"
                ) from None
            await trio.lowlevel.cancel_shielded_checkpoint()
            return accepted
        return await machine.mailbox.put(message)

    def notify(self, message: MessageT) -> bool:
        """Like `send_nowait`, but the handler's ``notify`` gets the message instead of ``info``.

        Source: ``lasse_handler:notify/2``.
        """
        self._machine.hub.check_thread()
        return self._machine.mailbox.put_nowait(Notification(message))

    def send_from_thread(self, message: MessageT) -> None:
        """Send from any thread, also from Trio's own; fire and forget.

        A message that is not accepted becomes a dead letter, since nobody is there to be told.
        """
        self._machine.hub.run_soon_from_thread(self._machine.put_or_bury, message)

    async def call(self, message: Any, timeout: float) -> Any:
        """Send a `Call` and wait for its reply.

        Args:
            message: ``info`` gets ``Call(message)`` and answers with ``call.reply(value)``.
            timeout: seconds to wait, for room and for the reply together.

        Returns:
            The value of the reply.

        Raises:
            trio.TooSlowError: no reply in time.
            trio.WouldBlock: the full mailbox refused or displaced the call.
            HandlerEnded: the handler has ended, or ended without a reply.
            RuntimeError: a callback calls its own handler.
        """
        check_seconds("timeout", timeout)
        machine = self._machine
        if machine.runs_here():
            raise RuntimeError("a handler cannot call itself: it would wait for its own callback")
        call = Call[Any](message)
        machine.calls = machine.calls or {}
        machine.calls[call] = None
        try:
            with trio.move_on_after(timeout):
                if await machine.mailbox.put(call):
                    await call.wait()
                elif machine.reason is None:
                    raise trio.WouldBlock("the full mailbox refused the call")
                else:
                    raise HandlerEnded(machine.reason)
            return call.result(timeout)
        finally:
            del machine.calls[call]

    def stop(self) -> None:
        """Ask the handler to end with `ShutDown`, as an operator would."""
        self._machine.hub.check_thread()
        self._machine.end(ShutDown())

    async def wait_ended(self) -> TerminateReason:
        """Wait until ``terminate`` has run.

        Returns:
            The terminate reason.

        Raises:
            RuntimeError: a callback would wait for the end of its own handler.
        """
        if self._machine.runs_here():
            raise RuntimeError("a handler cannot wait for its own end")
        return await self._machine.wait_over()

    async def get_state(self) -> dict[str, Any]:
        """Look at what the handler remembers, between two of its callbacks.

        Returns:
            Its own attributes by their names: the values themselves, not copies.

        Raises:
            HandlerEnded: the handler has ended, or ends before.
            RuntimeError: a callback asks for its own handler's.

        Source: Erlang's ``sys:get_state/1``.
        """
        state: dict[str, Any] = await visit(self._machine, partial(state_of, self._machine))
        return state

    async def suspend(self) -> None:
        """Let the handler handle nothing until `resume`: no message, no data, no ``idle``.

        Messages are accepted meanwhile, as long as the mailbox has room, and what ends a handler
        ends it. A callback that runs comes to its end first.

        Raises:
            HandlerEnded: the handler has ended, or ends before.
            RuntimeError: a callback suspends its own handler.

        Source: Erlang's ``sys:suspend/1``.
        """
        await visit(self._machine, self._machine.suspend)

    def resume(self) -> None:
        """Let a suspended handler go on; the idle time starts anew.

        Source: Erlang's ``sys:resume/1``.
        """
        self._machine.hub.check_thread()
        self._machine.resume()

    def statistics(self) -> HandlerStatistics:
        """How the handler is doing."""
        return self._machine.statistics()


@final
class Call(Generic[MessageT]):
    """A message that wants an answer.

    Attributes:
        message: what the caller sent.
    """

    __slots__ = ("_answered", "_error", "_value", "message")
    __match_args__ = ("message",)

    def __init__(self, message: Any) -> None:
        self.message: Any = message
        self._answered = trio.Event()
        self._value: Any = None
        self._error: Exception | None = None

    def __repr__(self) -> str:
        return f"Call({self.message!r})"

    def reply(self, value: Any = None) -> bool:
        """Answer the caller.

        Returns:
            ``False`` when the call had been answered before, or its handler had ended.
        """
        if self._answered.is_set():
            return False
        self._value = value
        self._answered.set()
        return True

    def fail(self, error: Exception) -> None:
        """Tell the caller that no answer will come."""
        if not self._answered.is_set():
            self._error = error
            self._answered.set()

    async def wait(self) -> None:
        """Wait until it is answered, one way or the other."""
        await self._answered.wait()

    def result(self, timeout: float) -> Any:
        """The answer.

        Raises:
            trio.TooSlowError: there is none.
            Exception: what `fail` was given.
        """
        if not self._answered.is_set():
            limit = "" if timeout == math.inf else f" in {timeout:g} s"
            raise trio.TooSlowError(f"no reply to {self!r}{limit}")
        if self._error is not None:
            raise self._error
        return self._value
