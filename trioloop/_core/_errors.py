"""Exceptions, and whose fault each one is.

::

    Exception
    ├── TypeError
    │   └── BadReturn            the handler: a callback returned something illegal
    ├── ValueError
    │   └── NameTaken            the handler: the name already has a holder
    ├── trio.TooSlowError
    │   ├── SendTimedOut         the client: it did not read for ``send_timeout`` seconds
    │   └── ReceiveTimedOut      the client: it did not send for ``receive_timeout`` seconds
    ├── RuntimeError
    │   └── HubNotRunning        the application: nobody started the hub
    ├── MessageTooLarge          the client: it sent more than ``max_message_size``
    ├── ProtocolViolation        the client: it broke the rules of its protocol
    ├── HandlerEnded             nobody: whom you called has ended
    └── ResponseAborted          nobody: tells the server to cut a connection

Trio's own exceptions stand for Trio's own situations: ``trio.WouldBlock`` for a full mailbox under
``Overflow.BLOCK``, ``trio.TooSlowError`` for a call without an answer.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import trio

if TYPE_CHECKING:
    from ._reasons import TerminateReason


class BadReturn(TypeError):
    """A callback returned a value that is not legal there.

    The message names the callback, the value and the way out. It is *not* raised into the
    callback: the handler ends with ``Crashed(BadReturn(...), callback)``.

    Attributes:
        callback: the callback's name.
        value: what it returned.
    """

    def __init__(self, callback: str, value: object, problem: str) -> None:
        super().__init__(f"{callback}() returned {value!r}: {problem}")
        self.callback = callback
        self.value = value


class NameTaken(ValueError):
    """``register`` was called with a name that a living handler holds.

    The way out is ``register(name, replace=True)``, or another name.
    """


class SendTimedOut(trio.TooSlowError):
    """One write made no progress for ``send_timeout`` seconds: the client stopped reading.

    Attributes:
        seconds: the ``send_timeout`` that ran out.
    """

    def __init__(self, seconds: float) -> None:
        super().__init__(f"the client did not read for {seconds:g} s (send_timeout)")
        self.seconds = seconds


class ReceiveTimedOut(trio.TooSlowError):
    """The client sent nothing for ``receive_timeout`` seconds while a callback read the body.

    It is raised where the callback reads, and the handler ends with ``TimedOut("client")``
    whatever the callback makes of it.

    Attributes:
        seconds: the ``receive_timeout`` that ran out.
    """

    def __init__(self, seconds: float) -> None:
        super().__init__(f"the client sent nothing for {seconds:g} s (receive_timeout)")
        self.seconds = seconds


class MessageTooLarge(Exception):
    """The client sent a message of more than ``max_message_size`` bytes.

    The handler ends with ``Failed(MessageTooLarge(...))``, and the message is not handled.

    Attributes:
        limit: the ``max_message_size``, in bytes.
    """

    def __init__(self, limit: float) -> None:
        super().__init__(f"the client sent more than {limit} bytes (max_message_size)")
        self.limit = limit


class ProtocolViolation(Exception):
    """The client broke the rules of its protocol, and the server has closed the connection.

    Only a server that says so can be told from a client that has gone: `Disconnected` elsewhere.

    Attributes:
        code: the close code with which the server has closed (RFC 6455, section 7.4.1).
    """

    def __init__(self, code: int, text: str = "") -> None:
        super().__init__(text or f"the server closed the connection with {code}")
        self.code = code


class HubNotRunning(RuntimeError):
    """A request came, or a message was sent, but nobody runs the hub."""


class HandlerEnded(Exception):
    """The handler that was called has ended and will not reply.

    Attributes:
        reason: its terminate reason.
    """

    def __init__(self, reason: TerminateReason) -> None:
        super().__init__(f"the handler has ended: {reason!r}")
        self.reason = reason


class ResponseAborted(Exception):
    """Raised through an ASGI application so that the server cuts the connection.

    A response that was started and cannot be completed must not look complete. The cause has
    been logged by then; ``App`` catches this one, a foreign application's server may log it.
    """
