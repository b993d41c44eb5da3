"""What comes from a client, given to a function of the application instead of asked for.

The laws of this file:

* A message is given as soon as it has come, by whoever brought it: the task that watches the
  sockets, or whoever lost the connection. No task is switched for it.
* One message at a time: what happens inside of the function is seen when it has returned.
* A connection that has a lot to give lets others have their turn after `FAIR` steps.
* What the function raises ends its own connection only. Behind a disconnect it is not called.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from typing import TYPE_CHECKING, Any, Final, Protocol, Self, TypeAlias

if TYPE_CHECKING:
    from ._connection import Connection

FAIR: Final = 32
"""Messages given, or pieces read, of one connection in one turn."""

Message: TypeAlias = dict[str, Any]
Take: TypeAlias = Callable[[Message], bool]


class Source(Protocol):
    """Where messages come from: a request or a WebSocket."""

    def next_message(self) -> Message | None:
        """The next message of what has been read; `None` where there is none."""
        raise NotImplementedError

    def urgent_message(self) -> Message | None:
        """What is told even though nobody wants to know more; `None` where there is nothing."""
        raise NotImplementedError

    def read_nowait(self) -> bool:
        """Read some more; false when there is nothing, or has to be nothing, to read."""
        raise NotImplementedError

    def pause(self) -> None:
        """Nobody wants to know more."""
        raise NotImplementedError

    def expire(self) -> None:
        """The client took too long."""
        raise NotImplementedError

    def disconnect_message(self) -> Message:
        """That it is over."""
        raise NotImplementedError


class Call:
    """What a request and a WebSocket have in common: an ASGI call in which somebody may listen.

    A copy of the scope must not copy what the functions in it belong to, so a call is its own copy.
    """

    __slots__ = ("_connection", "_over")

    def __init__(self, connection: Connection) -> None:
        self._connection = connection
        self._over = False  # the application has returned

    def __deepcopy__(self, memo: dict[int, Any]) -> Self:
        return self

    async def receive(self) -> Message:
        """ASGI's ``receive``."""
        raise NotImplementedError  # a request and a WebSocket have their own

    async def send(self, message: Message) -> None:
        """ASGI's ``send``."""
        raise NotImplementedError  # the same

    def is_own(self, function: object) -> bool:
        """Whether this is our ``receive`` or ``send``, and not somebody's around it."""
        return function in (self.receive, self.send)

    def is_free(self) -> bool:
        """Whether nobody listens or receives, so that somebody may begin to listen."""
        return not (self._over or self._connection.listener or self._connection.receiving)

    def start_listening(self, source: Source, take: Take) -> Callable[[], None]:
        """Give what ``receive`` would return to a function; what it returns goes on after a pause.

        Raises:
            RuntimeError: the call is over, or somebody else listens or receives.
        """
        if self._over:
            raise RuntimeError("the ASGI call is over: there is nothing more to listen to")
        listener = Listener(self._connection, source, take)
        listener.begin()
        return listener.resume

    def tell_cancelled(self, function: Callable[[], object]) -> None:
        """Call this before the call is cancelled, see ``_scope.py``."""
        if not self._over:
            self._connection.worker.cancellation.add(self, function)


class Listener:
    """Gives messages to one function.

    Args:
        connection: where they come from.
        source: who makes messages of bytes.
        take: called with each; false for no more.
    """

    __slots__ = ("_busy", "_connection", "_ended", "_paused", "_resumed", "_source", "_take")

    def __init__(self, connection: Connection, source: Source, take: Take) -> None:
        self._connection = connection
        self._source = source
        self._take = take
        self._busy = False  # the function is running, or will be called
        self._paused = False
        self._resumed = False  # inside of the function
        self._ended = False

    def begin(self) -> None:
        """Give what is there, and from now on what comes.

        Raises:
            RuntimeError: somebody else listens or receives.
        """
        connection = self._connection
        if connection.listener is not None or connection.receiving:
            raise RuntimeError("somebody listens or receives already")
        connection.listener = self
        connection.receiving = True
        connection.transport.watch(self.advance)
        self.advance()

    def resume(self) -> None:
        """Go on, behind a message for which the function has returned false."""
        self._resumed = True
        if self._paused:
            self._paused = False
            self._connection.receiving = not self._ended
            self.advance()

    def expire(self) -> None:
        """The client took too long."""
        if not self._ended:
            self._source.expire()
            self.advance()

    def end(self) -> None:
        """Give nothing more."""
        if not self._ended:
            self._ended = True
            self._source.pause()
            self._connection.transport.watch(None)
            self._connection.listener = None
            self._connection.end_receiving()

    def advance(self) -> None:
        """Give what has come."""
        if self._busy:
            return
        self._busy = True
        try:
            self._give_all()
        except Exception as error:
            self._fail(error)
        finally:
            self._busy = False

    def _give_all(self) -> None:
        source = self._source
        for _ in range(FAIR):
            if self._ended:
                return
            message = source.urgent_message() if self._paused else source.next_message()
            if message is not None:
                self._give(message)
            elif self._paused or not source.read_nowait():
                return
        self._connection.transport.watch_again()

    def _give(self, message: Message) -> None:
        if message["type"] in ("http.disconnect", "websocket.disconnect"):
            self.end()
        self._resumed = False
        more = self._take(message)
        if not (more or self._resumed or self._ended):
            self._paused = True
            self._connection.receiving = False
            self._source.pause()

    def _fail(self, error: Exception) -> None:
        connection = self._connection
        connection.worker.report(error)
        ended = self._ended
        self.end()
        connection.lose("failed")
        connection.transport.abort()
        if not ended:
            with suppress(Exception):  # once is enough
                self._take(self._source.disconnect_message())
