"""`LoopHandler`: long polling, and any other HTTP response that waits."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, ClassVar

from starlette.requests import Request
from typing_extensions import TypeVar

from .._core._handler import Handler
from ._commands import Commands, Outcome
from ._legality import COMMANDS
from ._output import HTTPOutput

if TYPE_CHECKING:
    from typing import Any

    from ._hub import Hub

MessageT = TypeVar("MessageT", default="Any")


class LoopHandler(Handler[MessageT]):
    """A request that waits for messages, and answers when it has something to say.

    One object serves one request. Override the callbacks, each as ``def`` or ``async def``; they
    return commands. Set the attributes on the class, or for one route as keyword arguments.

    Attributes:
        idle_timeout: seconds for which the mailbox may stay silent; ``math.inf`` for none.
        mailbox_size: messages accepted and not yet started.
        overflow: what a full mailbox does: a member of `Overflow`, or `KeepLatest`.
        max_body: bytes of request body that nobody is reading; more end the handler with
            ``Overflowed("body", max_body)``. A callback that reads gets backpressure instead.
        receive_timeout: seconds that the client may take to send the next piece of the body which
            a callback is reading.
        send_timeout: seconds that one write may make no progress.
        terminate_timeout: seconds that an ``async def terminate`` may take.
        methods: the HTTP methods that are served, `None` for any; others get 405.
        max_handlers: handlers of one route that may be open at a time; more get 503.
        origins: web pages that may open it besides those of the same origin, such as
            ``("https://example.org",)``; ``("*",)`` for all. Others get 403. Pages that CORS lets in
            are named here, too.
        request: Starlette's request; its body can be read in any callback.
        ref: what others send to. Set before ``init``.
        hub: where the handler runs. Set before ``init``.

    Source: cowboy_loop(3).
    """

    max_body: int = 2**20
    receive_timeout: float = 60.0
    methods: tuple[str, ...] | None = None
    max_handlers: float = math.inf
    origins: tuple[str, ...] | None = None

    request: Request
    hub: Hub

    command_types: ClassVar[tuple[type, ...]] = COMMANDS
    output_type: ClassVar[type[HTTPOutput]] = HTTPOutput

    def init(self, request: Request) -> Outcome:
        """Start: called once, before any message.

        Args:
            request: Starlette's request, the same as ``self.request``.

        Returns:
            Commands. A `Reply` answers at once; `None` waits for messages.
        """
        return None

    def info(self, message: MessageT) -> Outcome:
        """Handle one message.

        By default a message that is a command is carried out, and any other is refused with a
        `TypeError`, which ends the handler with `Crashed`.

        Args:
            message: what somebody sent to ``self.ref``.

        Returns:
            Commands.
        """
        commands: Commands = super().info(message)
        return commands

    def notify(self, message: MessageT) -> Outcome:
        """Handle one message that was sent with ``ref.notify``; by default ``info`` does."""
        return self.info(message)

    def idle(self) -> Outcome:
        """No message came for ``idle_timeout`` seconds. By default: ``Stop(TimedOut())``."""
        commands: Commands = super().idle()
        return commands
