"""What a hub tells of its handlers: for metrics, tracing and logs.

Laws of this file:

* A hub without instruments pays nothing for them: what is measured is wrapped when a handler starts.
* Details are frozen. An instrument looks on; it changes nothing.
* What an instrument raises is logged, and harms neither the handler nor the other instruments.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Coroutine, Generator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any, Final, TypeAlias, cast, final

import trio

from ._mailbox import OverflowPolicy
from ._reasons import TerminateReason
from ._ref import HandlerRef

if TYPE_CHECKING:
    from ._machine import Machine

logger = logging.getLogger("trioloop")

CALLBACKS: Final = ("init", "info", "notify", "idle", "receive")


@final
@dataclass(frozen=True, slots=True)
class HandlerStarted:
    """A handler starts; its ``init`` comes next.

    Args:
        ref: the handler.
        kind: its class's name.
    """

    ref: HandlerRef[Any]
    kind: str


@final
@dataclass(frozen=True, slots=True)
class CallbackDone:
    """A callback has returned or raised.

    Args:
        ref: the handler.
        callback: its name.
        message: what it got: a message, the client's data, or `None`.
        seconds: how long it took, waiting included.
        error: what it raised.
    """

    ref: HandlerRef[Any]
    callback: str
    message: Any
    seconds: float
    error: BaseException | None = None


@final
@dataclass(frozen=True, slots=True)
class CommandReturned:
    """A callback has returned a command. Whether it is legal there is found after this.

    Args:
        ref: the handler.
        callback: its name.
        command: what it returned, one of them where there are several.
    """

    ref: HandlerRef[Any]
    callback: str
    command: Any


@final
@dataclass(frozen=True, slots=True)
class HandlerTerminated:
    """A handler has ended, and its ``terminate`` has run.

    Args:
        ref: the handler.
        reason: why.
        seconds: how long it lived.
        messages: how many it has handled.
    """

    ref: HandlerRef[Any]
    reason: TerminateReason
    seconds: float
    messages: int


@final
@dataclass(frozen=True, slots=True)
class DeadLetter:
    """A message was accepted and will not be handled.

    Args:
        ref: whom it was for.
        message: the message.
        cause: the terminate reason, or the policy that displaced or refused it.
    """

    ref: HandlerRef[Any]
    message: Any
    cause: TerminateReason | OverflowPolicy


class Instrument:
    """Looks on. Derive from it, override what you want to hear of, and give it to ``Hub``.

    All of it is called in Trio's thread, between other things, so it must be quick and must not
    block. What it raises is logged.

    Source: Cowboy's ``cowboy_metrics_h`` and ``cowboy_tracer_h``.
    """

    def started(self, detail: HandlerStarted) -> None:
        """A handler starts."""

    def message(self, detail: CallbackDone) -> None:
        """A callback has returned or raised: ``init``, ``info``, ``notify``, ``idle``, ``receive``."""

    def command(self, detail: CommandReturned) -> None:
        """A callback has returned a command."""

    def terminated(self, detail: HandlerTerminated) -> None:
        """A handler has ended."""

    def dead_letter(self, detail: DeadLetter) -> None:
        """A message will not be handled."""


Detail: TypeAlias = HandlerStarted | CallbackDone | CommandReturned | HandlerTerminated | DeadLetter


class Orchestra:
    """The instruments of one hub.

    Args:
        instruments: in the order in which they are told.
    """

    def __init__(self, instruments: Sequence[Instrument]) -> None:
        self._instruments = tuple(instruments)
        self._started: dict[Machine, float] = {}

    def tell(self, what: str, detail: Detail) -> None:
        """Tell every instrument."""
        for instrument in self._instruments:
            try:
                getattr(instrument, what)(detail)
            except Exception:
                logger.exception("the instrument %r raised in %s", instrument, what)

    def follow(self, machine: Machine) -> None:
        """A handler starts: wrap its callbacks."""
        self._started[machine] = trio.current_time()
        player = _Player(self, machine.ref)
        own = vars(machine.handler)
        for callback in CALLBACKS:
            function = getattr(machine.handler, callback, None)
            if function is not None:
                own[callback] = partial(player.call, callback, function)
        self.tell("started", HandlerStarted(machine.ref, machine.name))

    def leave(self, machine: Machine) -> None:
        """A handler has ended."""
        now = trio.current_time()
        assert machine.reason is not None
        lived = now - self._started.pop(machine, now)
        detail = HandlerTerminated(machine.ref, machine.reason, lived, machine.handled)
        self.tell("terminated", detail)


class _Player:
    """Measures the callbacks of one handler."""

    __slots__ = ("_inside", "_orchestra", "_ref")

    def __init__(self, orchestra: Orchestra, ref: HandlerRef[Any]) -> None:
        self._orchestra = orchestra
        self._ref = ref
        self._inside = False

    def call(self, callback: str, function: Callable[..., Any], *args: Any) -> Any:
        """Stand for a callback."""
        if self._inside:
            return function(*args)  # notify calls info, or a user's callback another one
        message = args[0] if args and callback != "init" else None
        begun = trio.current_time()
        self._inside = True
        try:
            outcome: object = function(*args)
        except BaseException as error:
            self._done(callback, message, begun, error=error)
            raise
        finally:
            self._inside = False
        if hasattr(type(outcome), "__await__"):
            return _Measured(partial(self._await, callback, message, begun), outcome)
        self._done(callback, message, begun, outcome)
        return outcome

    async def _await(self, callback: str, message: Any, begun: float, awaitable: Any) -> Any:
        try:
            outcome = await awaitable
        except BaseException as error:
            self._done(callback, message, begun, error=error)
            raise
        self._done(callback, message, begun, outcome)
        return outcome

    def _done(
        self,
        callback: str,
        message: Any,
        begun: float,
        outcome: object = None,
        error: BaseException | None = None,
    ) -> None:
        seconds = trio.current_time() - begun
        detail = CallbackDone(self._ref, callback, message, seconds, error)
        self._orchestra.tell("message", detail)
        if outcome is None:
            return
        several = type(outcome) in (list, tuple)
        for command in cast("Sequence[object]", outcome) if several else (outcome,):
            self._orchestra.tell("command", CommandReturned(self._ref, callback, command))


class _Measured:
    """What an ``async def`` callback has returned, measured when it is awaited."""

    __slots__ = ("_awaitable", "_measure")

    def __init__(self, measure: Callable[[Any], Coroutine[Any, Any, Any]], awaitable: Any) -> None:
        self._measure = measure
        self._awaitable = awaitable

    def __await__(self) -> Generator[Any, Any, Any]:
        return self._measure(self._awaitable).__await__()

    def close(self) -> None:
        """It will not be awaited."""
        getattr(self._awaitable, "close", lambda: None)()
