"""What the machine asks of the transport: the seam between it and everything that knows HTTP."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from typing import Any, Protocol

from ._commands import Continue
from ._mailbox import Received
from ._reasons import CallbackName, TerminateReason


class Output(Protocol):
    """The client's side of one handler. It is called from the handler's own task, or on its behalf.

    Attributes:
        plain: types of commands that are legal now, alone, whatever they hold and whoever returned
            them: `check` need not be asked.
        pending: messages' worth of output that was added and not written; false when there is none.
        size: bytes pending.
        tick_due: the time (Trio's clock) at which `tick` wants to be called, ``math.inf`` for never.
    """

    plain: frozenset[type]
    pending: int
    size: int
    tick_due: float

    def check(self, callback: CallbackName, commands: Sequence[object]) -> str | None:
        """Say why these commands are not legal now, or `None`. Carries nothing out."""

    def add(self, command: Any) -> bool:
        """Take a command that the machine does not know; true when it ends the handler.

        Raises:
            Exception: it cannot be encoded; the handler ends with `Failed`.
        """
        raise NotImplementedError

    def next_data(self) -> Received:
        """Take what the client has sent; asked only after the machine's ``offer``."""
        raise NotImplementedError

    def data_done(self) -> None:
        """What `next_data` gave has been answered, or will be: the client may send more."""

    def initialised(self) -> bool:
        """``init`` has returned; true when that ends the handler (HEAD)."""
        raise NotImplementedError

    def wake_at(self, deadline: float) -> None:
        """Call the machine's ``ring`` at this time (Trio's clock), or earlier. Replaces the last."""

    def tick(self, now: float) -> None:
        """The time ``tick_due`` has come: add what shows life."""

    def write(self, now: float) -> Awaitable[object] | None:
        """Begin to write what is pending, or the first piece of it.

        Not a coroutine function: what is awaited for every event is the server's own ``send``.

        Args:
            now: the time (Trio's clock).

        Returns:
            What to await; `None` when it is written already. Awaited, it raises an exception when
            the write failed.
        """
        raise NotImplementedError

    def reason_for(self, error: Exception) -> TerminateReason:
        """Why the handler ends when a write has raised this."""
        raise NotImplementedError

    def written(self, now: float) -> None:
        """That piece is written. ``pending`` says whether another follows."""

    def finish_nowait(self, reason: TerminateReason) -> bool:
        """Do what `finish` does, if nothing has to be waited for; false when nothing was written."""
        raise NotImplementedError

    async def finish(self, reason: TerminateReason) -> None:
        """Write what is pending, then the ending that the client sees for this reason."""

    def regulate(self, command: Continue) -> None:
        """Change how the client is read: the parts of `Continue` that are not the machine's."""

    def failure(self, error: Exception) -> Callable[[], object] | None:
        """What to call when the handler ends with `Failed`, if anybody wants to hear of it."""

    def ended(self) -> None:
        """``terminate`` has run; nothing follows."""
