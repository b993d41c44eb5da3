"""How fast something may come: a token bucket, which is told the time.

Law of this file: within any time ``t`` at most ``rate * (burst + t)`` are let pass, and whoever
keeps to the rate is never stopped.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import final


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class Rate:
    """How fast a client may send.

    Args:
        messages: per second, ``math.inf`` for any number.
        bytes: per second, ``math.inf`` for any number; text counts in UTF-8.
        burst: seconds for which a client that was silent may send at once.

    Raises:
        TypeError: no number.
        ValueError: not more than zero.
    """

    messages: float = math.inf
    bytes: float = math.inf
    burst: float = 2.0

    def __post_init__(self) -> None:
        for name in ("messages", "bytes", "burst"):
            value: object = getattr(self, name)
            if isinstance(value, bool) or not isinstance(value, (int, float)):
                raise TypeError(f"{name} must be a number, not {value!r}")
            if not value > 0:
                raise ValueError(f"{name} must be more than zero, not {value!r}")


class TokenBucket:
    """What is left of a rate, for one client.

    Args:
        rate: per second.
        burst: seconds.
        now: the time, in seconds of any clock.
    """

    __slots__ = ("_filled_at", "_level", "_most", "_rate")

    def __init__(self, rate: float, burst: float, now: float) -> None:
        self._rate = rate
        self._most = max(1.0, rate * burst)
        self._level = self._most
        self._filled_at = now

    def take(self, amount: float, now: float) -> bool:
        """Let something pass, or not.

        Args:
            amount: how much.
            now: the time, never earlier than the last.

        Returns:
            Whether there was enough left. More than the bucket holds passes when it is full, and
            has to be made good afterwards.
        """
        if self._rate == math.inf:
            return True
        self._level = min(self._most, self._level + (now - self._filled_at) * self._rate)
        self._filled_at = now
        if self._level < min(amount, self._most):
            return False
        self._level -= amount
        return True
