"""Flow commands: what a callback returns to steer its own handler.

Laws of this file:

* A command is a frozen value. Making one does nothing; returning it does.
* What can be checked is checked when the command is made, so that the traceback shows the
  callback that made it.
* The machine carries these out itself; every other command belongs to an `Output`.
"""

from __future__ import annotations

import math
from collections.abc import Hashable
from dataclasses import dataclass, field
from typing import TypeAlias, final

from ._reasons import Stopped, TimedOut


def check_seconds(name: str, value: object) -> None:
    """Refuse anything but a number of seconds from zero to ``math.inf``.

    Raises:
        TypeError: not a number.
        ValueError: negative or not-a-number.
    """
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        raise TypeError(f"{name} must be a number of seconds, not {value!r}")
    if not value >= 0:
        raise ValueError(f"{name} must be zero or more seconds (math.inf for none), not {value!r}")


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class Continue:
    """Go on waiting; what is not given stays as it is. Returning `None` is the same as ``Continue()``.

    Args:
        idle_timeout: seconds of mailbox silence from now on; ``math.inf`` for none.
        receive_timeout: seconds of client silence from now on; ``math.inf`` for none.
        receive: ``False`` pauses reading from the client, ``True`` resumes it (WebSocket only).

    Raises:
        TypeError: a value of the wrong type.
        ValueError: a negative number of seconds.

    Source: Cowboy's ``{ok, Req, State}`` and ``{ok, Req, State, Timeout}``, cowboy_loop(3).
    """

    idle_timeout: float | None = None
    receive_timeout: float | None = None
    receive: bool | None = None

    def __post_init__(self) -> None:
        if self.idle_timeout is not None:
            check_seconds("idle_timeout", self.idle_timeout)
        if self.receive_timeout is not None:
            check_seconds("receive_timeout", self.receive_timeout)
        if self.receive is not None and not isinstance(self.receive, bool):
            raise TypeError(f"receive must be True or False, not {self.receive!r}")


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class Hibernate:
    """Go on waiting, and give back the memory that waiting does not need.

    It holds until the next message. The idle timeout stays unless given.

    Args:
        idle_timeout: seconds of mailbox silence from now on; ``math.inf`` for none.

    Raises:
        TypeError: not a number.
        ValueError: a negative number of seconds.

    Source: Cowboy's ``{ok, Req, State, hibernate}``, cowboy_loop(3).
    """

    idle_timeout: float | None = None

    def __post_init__(self) -> None:
        if self.idle_timeout is not None:
            check_seconds("idle_timeout", self.idle_timeout)


@final
@dataclass(frozen=True, slots=True)
class Stop:
    """End the handler.

    Args:
        reason: `Stopped` (the default) or `TimedOut`; what ``terminate`` hears.

    Raises:
        TypeError: any other reason; those are the machine's to give.

    Source: Cowboy's ``{stop, Req, State}``, cowboy_loop(3).
    """

    reason: Stopped | TimedOut = field(default_factory=Stopped)

    def __post_init__(self) -> None:
        if not isinstance(self.reason, (Stopped, TimedOut)):
            raise TypeError(f"Stop(reason) takes Stopped() or TimedOut(), not {self.reason!r}")


@final
@dataclass(frozen=True, slots=True)
class Then:
    """Write what is pending, then handle this message before the mailbox.

    Args:
        message: what ``info`` gets next.

    Source: ``{continue, Term}`` of Erlang's gen_server.
    """

    message: object


@final
@dataclass(frozen=True, slots=True)
class SendAfter:
    """Send a message to oneself later. The timer starts at the return and dies with the handler.

    Args:
        delay: seconds, zero or more.
        message: what ``info`` gets then; accepted even when the mailbox is full.
        key: a hashable name; a new timer with the same key replaces the old one. `None`: no name.

    Raises:
        TypeError: a delay that is no number, or a key that cannot be hashed.
        ValueError: a delay that is negative or infinite.

    Source: ``erlang:send_after/3``.
    """

    delay: float
    message: object
    key: Hashable = None

    def __post_init__(self) -> None:
        check_seconds("delay", self.delay)
        if self.delay == math.inf:
            raise ValueError(
                "SendAfter(math.inf, ...) would never fire; CancelTimer(key) ends a timer"
            )
        hash(self.key)


@final
@dataclass(frozen=True, slots=True)
class CancelTimer:
    """Cancel the timer that was started with this key; nothing happens when there is none.

    A message that the timer has already put into the mailbox stays there.

    Args:
        key: the key given to `SendAfter`.

    Source: ``erlang:cancel_timer/1``.
    """

    key: Hashable

    def __post_init__(self) -> None:
        if self.key is None:
            raise ValueError("CancelTimer needs the key that was given to SendAfter, not None")
        hash(self.key)


@final
@dataclass(frozen=True, slots=True)
class Postpone:
    """Put the current message back: it is handled again right after the next other message.

    Several postponed messages keep their order. Legal in ``info`` and ``notify`` only.

    Source: ``postpone`` of Erlang's gen_statem, without named states.
    """


FlowCommand: TypeAlias = Continue | Hibernate | Stop | Then | SendAfter | CancelTimer | Postpone
"""The commands that the machine carries out itself."""
