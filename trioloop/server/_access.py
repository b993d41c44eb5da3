"""Lines of the access log, written when a request or a WebSocket has ended.

The laws of this file:

* Hypercorn's logger writes them, in Hypercorn's format, so that its atoms and its statsd work.
* Where nobody listens, a request pays one comparison.
* The number of bytes is what was written (Hypercorn's atoms ``b`` and ``B`` repeat what the
  application had announced), and ``%({x-ended}o)s`` says how it ended.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

from hypercorn.logging import Logger

if TYPE_CHECKING:
    from ._scope import Scope

ENDED = b"x-ended"
"""The header that exists in the log only: ``complete``, ``disconnected``, ``timed-out``,
``cut`` (by the application or its crash), ``shut-down``, or a WebSocket's close code."""


class AccessLog:
    """The access log of a worker.

    Args:
        logger: Hypercorn's.
    """

    def __init__(self, logger: Logger) -> None:
        self._logger = logger
        plain = type(logger).access is Logger.access
        self.enabled: bool = not plain or logger.access_logger is not None

    async def write(
        self,
        scope: Scope,
        status: int | None,
        headers: Iterable[tuple[bytes, bytes]],
        *,
        sent: int,
        seconds: float,
        ended: str,
    ) -> None:
        """Write a line.

        Args:
            scope: of the request.
            status: of the response; `None` if there was none.
            headers: of the response.
            sent: bytes of its body that were written.
            seconds: since the request came.
            ended: how it ended, see `ENDED`.
        """
        response: Any = None
        if status is not None:
            others = [pair for pair in headers if pair[0].lower() != b"content-length"]
            shown = [*others, (b"content-length", b"%d" % sent), (ENDED, ended.encode())]
            response = {"status": status, "headers": shown}
        try:
            # Hypercorn's annotations know no extension of a scope.
            await self._logger.access(scope, response, seconds)  # type: ignore[arg-type]
        except Exception:
            await self._logger.exception("The access log could not be written")
