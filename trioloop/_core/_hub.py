"""The hub's running part: the nursery, and what handlers of one process share.

Laws of this file:

* A handler's crash stays in the handler. What reaches the hub's nursery ends the whole run.
* While the hub shuts down it takes no new handler and ends those it has.
* Hooks of users are contained: what they raise is logged.
"""

from __future__ import annotations

import contextlib
import logging
import random as random_module
from collections import Counter
from collections.abc import AsyncGenerator, Awaitable, Callable, Hashable, Mapping, Sequence
from contextlib import asynccontextmanager
from contextvars import Context, copy_context
from dataclasses import dataclass
from functools import partial
from threading import get_ident
from typing import Any, TypeAlias, final

import trio

from ._alarms import Clock
from ._dispatcher import Dispatcher
from ._errors import HubNotRunning, MessageTooLarge, ProtocolViolation, SendTimedOut
from ._instrument import DeadLetter, Instrument, Orchestra
from ._loop import run_handler
from ._machine import Machine
from ._mailbox import OverflowPolicy
from ._reasons import Crashed, Failed, Overflowed, ShutDown, TerminateReason
from ._ref import HandlerRef
from ._registry import Member, Registry

logger = logging.getLogger("trioloop")

DeadLetterCause: TypeAlias = TerminateReason | OverflowPolicy
"""Why a message was not handled: the handler's end, or the policy that displaced or refused it."""

DeadLetterHook: TypeAlias = Callable[[HandlerRef[Any], Any, DeadLetterCause], object]
"""``dead_letter(ref, message, cause)``, called for every dead letter."""


@final
@dataclass(frozen=True, slots=True)
class HubStatistics:
    """A look at one hub.

    Args:
        handlers: handlers that live.
        started: handlers started so far.
        dead_letters: messages that were accepted and never handled.
        names: names taken.
        groups: groups with at least one member.
        draining: whether the hub shuts down.
        refused: requests that were turned away by a limit or for their origin, so far.
        ended: how many handlers have ended so far, by the name of the reason; with what timed out
            or overflowed, as in ``"Overflowed(rate)"``.
    """

    handlers: int
    started: int
    dead_letters: int
    names: int
    groups: int
    draining: bool
    refused: int
    ended: Mapping[str, int]


class HubCore:
    """Where handlers run, and where they find each other.

    Args:
        dead_letter: called with every message that was accepted and not handled.
        random: the source of jitter and of the hub's id; tests give a seeded one.
        instruments: who looks on.
    """

    def __init__(
        self,
        *,
        dead_letter: DeadLetterHook | None = None,
        random: random_module.Random | None = None,
        instruments: Sequence[Instrument] = (),
    ) -> None:
        self.random: random_module.Random = (
            random_module.Random() if random is None else random  # noqa: S311 - jitter
        )
        self.id: str = f"{self.random.getrandbits(64):016x}"
        self.registry: Registry = Registry()
        self.draining: bool = False
        self.now: Callable[[], float] = (
            trio.current_time
        )  # Trio's, while it runs; then a shorter way
        self.dead_letter: DeadLetterHook | None = dead_letter
        self.observer: Callable[[Machine], None] | None = (
            None  # sees every machine before it starts
        )
        self.orchestra: Orchestra | None = Orchestra(instruments) if instruments else None
        self.dispatcher: Dispatcher = Dispatcher(self._serve_residents)
        self._clock: Clock | None = None
        self._services: list[trio.CancelScope] = []  # what handlers in tasks of others need
        self._own_context = Context()  # not that of whoever needs a service first
        self._machines: dict[Machine, None] = {}
        self._emptied: trio.Event | None = None
        self._nursery: trio.Nursery | None = None
        self._notices: set[Callable[[], Awaitable[object]]] = set()
        self._token: trio.lowlevel.TrioToken | None = None
        self._thread = 0  # in which it runs
        self._started = 0
        self._ended: Counter[str] = Counter()
        self._buried = 0

    def __deepcopy__(self, memo: dict[int, Any]) -> HubCore:
        return self  # middleware that copies a scope must not copy what runs in it

    # -- running ---------------------------------------------------------------------------------

    @property
    def running(self) -> bool:
        """Whether handlers can be started."""
        return self._nursery is not None

    @asynccontextmanager
    async def running_here(self) -> AsyncGenerator[None]:
        """Run handlers in a nursery of the current task; at the end they all get `ShutDown`.

        Raises:
            RuntimeError: the hub is running already, or this is not Trio.
        """
        if not trio.lowlevel.in_trio_run():
            raise RuntimeError(
                "trioloop runs on Trio only; serve the app with: trioloop serve module:app, or"
                " hypercorn -k trio module:app"
            )
        if self._nursery is not None:
            raise RuntimeError("this hub is running already; a hub runs once at a time")
        self.draining = False
        self._token = trio.lowlevel.current_trio_token()
        self._own_context = copy_context()
        self._thread = get_ident()
        self.now = trio.lowlevel.current_clock().current_time
        try:
            async with trio.open_nursery() as nursery:
                self._nursery = nursery
                nursery.start_soon(self._watch_over_handlers)
                try:
                    yield
                finally:
                    self.shut_down()
                    with trio.CancelScope(shield=True):
                        await self._wait_until_empty()
                    for service in self._services:
                        service.cancel()
                    nursery.cancel_scope.cancel()  # nobody is left but what runs in the background
        finally:
            self._nursery = self._clock = self._token = None
            self._services.clear()
            self._thread = 0
            self._notices.clear()

    async def _watch_over_handlers(self) -> None:
        # A running callback is shielded from the hub's nursery, so somebody has to pass the
        # hub's cancellation on.
        try:
            await trio.sleep_forever()
        finally:
            self.shut_down()

    @property
    def clock(self) -> Clock:
        """The clock for handlers that live in tasks of others; it runs when there is one."""
        if self._clock is None:
            self._clock = Clock()
            self._serve_residents(self._clock.run)
        return self._clock

    def _serve_residents(self, service: Callable[[], Awaitable[None]]) -> None:
        """Run something for handlers that live in tasks of others, until the last of them has ended."""
        assert self._nursery is not None
        scope = trio.CancelScope(shield=True)
        self._services.append(scope)

        async def run() -> None:
            with scope:
                await service()

        self._own_context.run(partial(self._nursery.start_soon, run, name=service))

    async def _wait_until_empty(self) -> None:
        # Some handlers live in tasks that are not the hub's.
        while self._machines:
            self._emptied = trio.Event()
            await self._emptied.wait()

    def drain_after(self, wait: Callable[[], Awaitable[object]]) -> None:
        """Shut down when ``wait()`` returns; the same function is waited for once."""
        if wait in self._notices or self._nursery is None:
            return
        self._notices.add(wait)

        async def drain() -> None:
            await wait()
            self.shut_down()

        self._own_context.run(self._nursery.start_soon, drain)

    def run_in_background(self, function: Callable[[], Awaitable[object]]) -> None:
        """Run something until it returns or the hub ends. It must not raise."""
        if self._nursery is not None:
            self._nursery.start_soon(function)

    def shut_down(self) -> None:
        """End every handler with `ShutDown`, and take no new one from now on."""
        self.draining = True
        for machine in tuple(self._machines):
            machine.end(ShutDown())

    @property
    def handlers_open(self) -> int:
        """How many handlers live."""
        return len(self._machines)

    def check_running(self) -> None:
        """Say how to start a hub that does not run.

        Raises:
            HubNotRunning: nobody runs it.
        """
        if self._nursery is None:
            raise HubNotRunning(
                "the hub is not running: a trioloop App must be served with lifespan support, and"
                " be the application itself; mounted in another one, or without an App, that"
                " application needs lifespan=hub.lifespan"
            )

    def check_thread(self) -> None:
        """Refuse a caller in another thread, before anything is changed for half of it.

        Raises:
            RuntimeError: it is one.
        """
        if self._thread not in (0, get_ident()):
            raise RuntimeError(
                "this is another thread than that of the hub: use ref.send_from_thread(message), or"
                " trio.from_thread.run_sync(function, ...) in a thread that Trio has started, such"
                " as that of a plain def endpoint"
            )

    def start(self, machine: Machine) -> None:
        """Start a handler. While the hub drains it ends at once, before ``init``.

        One that is resident is only admitted: whoever has it runs it.

        Raises:
            HubNotRunning: nobody runs the hub.
        """
        self.check_running()
        assert self._nursery is not None
        self._machines[machine] = None
        if self.observer is not None:
            self.observer(machine)
        if self.orchestra is not None:
            self.orchestra.follow(machine)
        if self.draining:
            machine.end(ShutDown())
        if not machine.resident:
            self.give_task(machine)

    def give_task(self, machine: Machine) -> None:
        """Give a handler a task: at its start, and whenever it wakes up from hibernation."""
        assert self._nursery is not None
        self._nursery.start_soon(run_handler, machine, name=machine.name)

    def forget(self, machine: Machine) -> None:
        """A handler has ended."""
        self._machines.pop(machine, None)
        if not self._machines and self._emptied is not None:
            self._emptied.set()
        if self.orchestra is not None:
            self.orchestra.leave(machine)

    def next_serial(self) -> int:
        """The number of the next handler."""
        self._started += 1
        return self._started

    def run_soon_from_thread(self, function: Callable[..., Any], *args: Any) -> None:
        """Call a function in Trio's thread; does nothing when the hub does not run any more."""
        token = self._token
        if token is not None:
            with contextlib.suppress(trio.RunFinishedError):
                token.run_sync_soon(function, *args)

    # -- finding each other ----------------------------------------------------------------------

    def whereis(self, name: Hashable) -> HandlerRef[Any] | None:
        """The handler that has registered this name, or `None`. Source: ``erlang:whereis/1``."""
        machine = self.registry.names.get(name)
        return None if machine is None else machine.ref

    def members(self, group: Hashable) -> tuple[Member, ...]:
        """The members of a group, in the order of joining. Source: Erlang's ``pg:get_members/1``."""
        return self.registry.members(group)

    def broadcast(
        self, group: Hashable, message: Any, exclude: HandlerRef[Any] | None = None
    ) -> int:
        """Send a message to every member of a group, without waiting.

        Args:
            group: the group.
            message: what each ``info`` gets: the same object.
            exclude: a member that is left out, such as the sender.

        Returns:
            How many mailboxes accepted it.

        Raises:
            RuntimeError: called from another thread.
        """
        self.check_thread()
        accepted = 0
        for machine in tuple(self.registry.groups.get(group, ())):
            if machine.ref is not exclude:
                try:
                    accepted += machine.mailbox.put_nowait(message)
                except trio.WouldBlock:  # full under Overflow.BLOCK, and nobody here can wait
                    continue
        return accepted

    @property
    def refused(self) -> int:
        """How many requests were turned away so far."""
        return 0

    def statistics(self) -> HubStatistics:
        """How the hub is doing."""
        return HubStatistics(
            handlers=len(self._machines),
            started=self._started,
            dead_letters=self._buried,
            names=len(self.registry.names),
            groups=len(self.registry.groups),
            draining=self.draining,
            refused=self.refused,
            ended=dict(self._ended),
        )

    # -- reports ---------------------------------------------------------------------------------

    def bury(self, ref: HandlerRef[Any], message: Any, cause: DeadLetterCause) -> None:
        """Count a dead letter and hand it to the hook."""
        self._buried += 1
        if self.orchestra is not None:
            self.orchestra.tell("dead_letter", DeadLetter(ref, message, cause))
        if self.dead_letter is not None:
            try:
                self.dead_letter(ref, message, cause)
            except Exception:
                logger.exception("the dead_letter hook raised for %r from %r", message, ref)

    def describe(self, machine: Machine) -> str:
        """A handler that has not ended, for people who read logs."""
        return repr(machine.ref)

    def report_crash(self, machine: Machine, error: BaseException, callback: str) -> None:
        """Log an error that could not end the handler, since it is ending already."""
        name = self.describe(machine)
        logger.error("%s in %s of %s", type(error).__name__, callback, name, exc_info=error)

    def report_end(self, machine: Machine, reason: TerminateReason) -> None:
        """Count an ending, and log one that somebody should look at."""
        what = getattr(reason, "what", "")
        self._ended[type(reason).__name__ + (f"({what})" if what else "")] += 1
        if isinstance(reason, (Crashed, Failed, Overflowed)):
            self._log_end(self.describe(machine), reason)

    def _log_end(self, name: str, reason: Crashed | Failed | Overflowed) -> None:
        match reason:
            case Crashed(error, callback):
                logger.error("%s crashed in %s: %s", name, callback, error, exc_info=error)
            case Failed((SendTimedOut() | MessageTooLarge() | ProtocolViolation()) as error):
                logger.info("%s failed: %s", name, error)
            case Failed(error):
                logger.error("%s failed: %s", name, error, exc_info=error)
            case Overflowed(what, limit):
                logger.warning("%s overflowed: its %s takes %s", name, what, limit)
