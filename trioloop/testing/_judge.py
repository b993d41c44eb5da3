"""The judge: every handler of a world, held against the laws after every step."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Final, NoReturn

from .._core._errors import MessageTooLarge, SendTimedOut
from .._core._reasons import (
    Completed,
    Crashed,
    Failed,
    Overflowed,
    ShutDown,
    Stopped,
    TerminateReason,
    TimedOut,
)
from ._laws import STEPS, TOLD_OF_THE_TEST, Acceptor, LawBroken, Violation

if TYPE_CHECKING:
    from ._exchange import Exchange
    from ._observer import Observed
    from ._world import World


MIN_RETRY: Final = 1000
"""Milliseconds; of three clients that are told less, all may draw the same number by chance."""


CLOSE_CODES: Final[Mapping[type, tuple[int, ...]]] = {
    Crashed: (1011,),
    Overflowed: (1013, 1008),
    ShutDown: (1012,),
    TimedOut: (1000,),
    Failed: (1009,),
}
"""With which codes these reasons close an open WebSocket."""


def _may_close(reason: TerminateReason, code: int | None) -> bool:
    if isinstance(reason, Failed) and not isinstance(reason.error, MessageTooLarge):
        return True  # the server has closed in its own way, or could not
    return code in CLOSE_CODES[type(reason)]


class Judge:
    """Reads a world's journal as it grows.

    Args:
        world: whose.

    Attributes:
        violation: the first broken law; nothing is judged after it.
    """

    def __init__(self, world: World) -> None:
        self._world = world
        self._acceptors: list[Acceptor] = []
        self._by_name: dict[str, Acceptor] = {}  # the handler's, and its client's
        self._exchanges: dict[str, Exchange] = {}  # by name, as far as they are known
        self._living: dict[Acceptor, Exchange | None] = {}  # of whom more can come; their clients
        self._next = 0
        self._moved: set[Acceptor] = set()  # of whom there are news since all was in order
        self._rested_at: float | None = None  # when that was; `None` for news of all
        self.violation: Violation | None = None

    def hear(self, *, at_rest: bool = True) -> None:
        """Follow what has happened since the last time.

        Args:
            at_rest: nothing moves until time passes, so that what is owed can be asked for.

        Raises:
            LawBroken: the first time that a law is broken.
        """
        if self.violation is not None:
            return
        try:
            self._follow()
            if at_rest:
                self._ask_for_what_is_owed()
        except LawBroken as broken:
            self.violation = broken.violation
            raise

    def finish(self) -> None:
        """The run is over.

        Raises:
            LawBroken: something never happened, or a client has seen the wrong ending.
        """
        self.hear(at_rest=False)
        if self.violation is not None:
            return
        try:
            for acceptor in self._acceptors:
                acceptor.finish(self._next, self._world.now())
            for exchange in self._world.exchanges:
                self._check_ending(exchange)
            self._check_jitter()
        except LawBroken as broken:
            self.violation = broken.violation
            raise

    def _follow(self) -> None:
        for observed in self._world.handlers[len(self._acceptors) :]:
            self._meet(observed)
        notes = self._world.journal.notes
        first, self._next = self._next, len(notes)
        by_name, moved = self._by_name, self._moved
        for index, note in enumerate(notes[first:], start=first):
            _, who, what, _ = note
            found = by_name.get(who)
            if found is not None:
                moved.add(found)
                if what in STEPS:
                    found.follow(index, note)
            elif what in TOLD_OF_THE_TEST and who == "test":
                for acceptor in self._acceptors:
                    acceptor.follow_test(note)
                self._rested_at = None

    def _meet(self, observed: Observed) -> None:
        """A handler that is new."""
        for exchange in self._world.exchanges[len(self._exchanges) :]:
            self._exchanges[exchange.name] = exchange
        acceptor = Acceptor(
            observed.handler,
            observed.name,
            notice=self._world.gives_notice,
            patience=self._world.patience,
        )
        earlier = self._by_name.get(observed.client)
        if earlier in self._living:
            self._living[earlier] = None  # its client is served by the new one
        self._acceptors.append(acceptor)
        self._by_name[observed.name] = self._by_name[observed.client] = acceptor
        self._living[acceptor] = self._exchanges.get(observed.client)

    def _ask_for_what_is_owed(self) -> None:
        """Ask whoever has moved; all, when time has passed."""
        now, living = self._world.now(), self._living
        time_has_passed = now != self._rested_at
        asked = [each for each in living if time_has_passed or each in self._moved]
        for each in asked:
            each.rest(self._next, now)
        for each in asked:
            exchange = living[each]
            if exchange is not None:
                everything = exchange.reads_everything
                each.check_output(exchange.dispatched, exchange.messages, all_of_it=everything)
                if each.is_over and not exchange.pending:
                    del living[each]
        self._moved.clear()
        self._rested_at = now

    def _check_ending(self, exchange: Exchange) -> None:
        acceptor = self._by_name.get(exchange.name)
        if acceptor is None or acceptor.reason is None or not exchange.reads_everything:
            return
        if acceptor.given_up:
            return  # perhaps behind the handler's end
        reason = acceptor.reason
        complete, cut = exchange.complete, exchange.aborted
        if exchange.accepted and type(reason) in CLOSE_CODES:
            if not (acceptor.cancelled or _may_close(reason, exchange.close_code)):
                self._blame(4, acceptor.who, f"{reason!r} closed with {exchange.close_code}")
            return
        if isinstance(reason, (Completed, Stopped, TimedOut)):
            right = complete
        elif isinstance(reason, Crashed):
            right = cut or exchange.status == 500
        elif isinstance(reason, ShutDown):
            right = complete or acceptor.cancelled or not self._world.gives_notice
        elif isinstance(reason, Failed):
            right = cut or isinstance(reason.error, SendTimedOut)  # it may read what had waited
        else:
            right = True
        if not right:
            seen = "a complete response" if complete else "a cut one" if cut else "no end"
            self._blame(4, acceptor.who, f"it ended with {reason!r}, and the client saw {seen}")

    def _check_jitter(self) -> None:
        told = [
            exchange.retry
            for exchange in self._world.exchanges
            if isinstance(exchange.reason, ShutDown)
            and exchange.complete
            and (exchange.retry or 0) >= MIN_RETRY
        ]
        if len(told) >= 3 and len(set(told)) == 1:
            self._blame(8, "hub", f"{len(told)} clients shall all come back after {told[:1]} ms")

    def _blame(self, law: int, who: str, sentence: str) -> NoReturn:
        raise LawBroken(Violation(law, sentence, self._next, self._world.now(), who))
