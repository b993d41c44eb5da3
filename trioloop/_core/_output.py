"""What the machine asks of the transport: the seam between it and everything that knows HTTP."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Protocol

from ._commands import Continue
from ._reasons import CallbackName, TerminateReason


class Output(Protocol):
    """The client's side of one handler. The machine calls it from the handler's own task only.

    Attributes:
        pending: messages' worth of output that was added and not written; false when there is none.
        size: bytes pending.
        tick_due: the time (Trio's clock) at which `tick` wants to be called, ``math.inf`` for never.
    """

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

    def initialised(self) -> bool:
        """``init`` has returned; true when that ends the handler (HEAD)."""
        raise NotImplementedError

    def wake_at(self, deadline: float) -> None:
        """Call the machine's ``ring`` at this time (Trio's clock), or earlier. Replaces the last."""

    def tick(self, now: float) -> None:
        """The time ``tick_due`` has come: add what shows life."""

    async def flush(self, now: float) -> None:
        """Write what is pending.

        Args:
            now: the time (Trio's clock), which the machine has just asked for.

        Raises:
            OSError: the client is gone.
            Exception: the write failed.
        """

    async def finish(self, reason: TerminateReason) -> None:
        """Write what is pending, then the ending that the client sees for this reason."""

    def regulate(self, command: Continue) -> None:
        """Change how the client is read: the parts of `Continue` that are not the machine's."""

    def failure(self, error: Exception) -> Callable[[], object] | None:
        """What to call when the handler ends with `Failed`, if anybody wants to hear of it."""

    def ended(self) -> None:
        """``terminate`` has run; nothing follows."""
