"""`WebSocketHandler`: a WebSocket as a handler with a mailbox."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, ClassVar

from starlette.requests import HTTPConnection
from typing_extensions import TypeVar

from .._core._handler import Handler
from .._wire import CloseCode, Rate
from ._commands import Commands, Outcome
from ._legality import COMMANDS
from ._websocket_commands import Close

if TYPE_CHECKING:
    from typing import Any

    from ._hub import Hub

MessageT = TypeVar("MessageT", default="Any")


class WebSocketHandler(Handler[MessageT]):
    """A WebSocket (RFC 6455): messages come from the mailbox, data from the client.

    One object serves one WebSocket. Override the callbacks, each as ``def`` or ``async def``; they
    return commands. Set the attributes on the class, or for one route as keyword arguments.

    Data and messages are handled one at a time, and take turns when both wait. While a callback
    runs, the client is not read, but for one message ahead: a client that is too fast is slowed
    down. Then a disconnect behind that message is seen only when its turn has come.

    Attributes:
        idle_timeout: seconds for which the mailbox may stay silent; data does not count.
        receive_timeout: seconds for which the client may stay silent; ``math.inf`` for none. Where
            the server tells of pongs, a silent client is pinged three times in that time, and only
            a dead one runs into it. Elsewhere nothing but data is seen, so there it holds only
            where a class, a route or `Continue` sets it. The end is ``TimedOut("client")``.
        max_message_size: bytes of one message from the client, of UTF-8 if it is text, after its
            fragments were put together; more end the handler with ``Failed(MessageTooLarge)``.
        compress: whether messages are compressed where the client offers it (RFC 7692), on a server
            that can be told; `None`: as the server is configured.
        max_rate: how fast the client may send; a faster one ends the handler with
            ``Overflowed("rate", limit)``. `None`: no faster than the handler takes it.
        max_handlers: handlers of one route that may be open at a time; more get 503.
        origins: web pages that may open it besides those of the same origin, such as
            ``("https://example.org",)``; ``("*",)`` for all. Others get 403. Browsers keep no page
            from opening a WebSocket anywhere, with the cookies of that place.
        mailbox_size: messages accepted and not yet started.
        overflow: what a full mailbox does: a member of `Overflow`, or `KeepLatest`.
        send_timeout: seconds that one write may make no progress.
        terminate_timeout: seconds that an ``async def terminate`` may take.
        request: Starlette's connection: headers, cookies, query, path parameters.
        ref: what others send to. Set before ``init``.
        hub: where the handler runs. Set before ``init``.

    Source: cowboy_websocket(3).
    """

    idle_timeout: float = math.inf
    receive_timeout: float = 60.0
    max_message_size: int = 2**20
    compress: bool | None = None
    max_rate: Rate | None = None
    max_handlers: float = math.inf
    origins: tuple[str, ...] | None = None

    request: HTTPConnection
    hub: Hub

    command_types: ClassVar[tuple[type, ...]] = COMMANDS

    def init(self, request: HTTPConnection) -> Outcome:
        """Start: called once, before any message, and before the WebSocket is accepted.

        Args:
            request: Starlette's connection, the same as ``self.request``.

        Returns:
            Commands. `Accept` chooses a subprotocol and headers; a `Reply` refuses; `None`, or any
            other command, accepts.
        """
        return None

    def receive(self, data: str | bytes) -> Outcome:
        """Handle one message from the client. By default the WebSocket is closed with code 1003.

        Args:
            data: ``str`` for a text message, ``bytes`` for a binary one.

        Returns:
            Commands.

        Source: Cowboy's ``websocket_handle/2``.
        """
        return Close(CloseCode.UNSUPPORTED_DATA, "nothing is received here")

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


def sets_receive_timeout(handler: WebSocketHandler[Any]) -> bool:
    """Whether a class or a route sets ``receive_timeout``, so that it holds under every server."""
    if "receive_timeout" in vars(handler):
        return True
    kinds = type(handler).__mro__
    own = kinds[: kinds.index(WebSocketHandler)]
    return any("receive_timeout" in vars(kind) for kind in own)
