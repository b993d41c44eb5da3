"""The options of a handler: class attributes, overridden for a route by keyword arguments.

Law of this file: an impossible value is refused when the route is made, when the class is known
by then, and in any case before ``init``.
"""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final, TypeAlias, cast

from .._core._commands import check_seconds
from .._core._handler import Handler
from .._core._mailbox import check_mailbox
from .._wire import Rate
from ._conversation import Conversation
from ._event_stream_handler import EventStreamHandler
from ._limits import check_count
from ._origins import check_origins

Factory: TypeAlias = Callable[[], Handler[Any]]
"""A handler class, or any callable that returns a handler."""


def _check_bytes(name: str, value: Any) -> None:
    if isinstance(value, bool) or not (isinstance(value, int) or value == math.inf):
        raise TypeError(f"{name} must be a number of bytes, not {value!r}")
    if value < 0:
        raise ValueError(f"{name} must be zero or more bytes, not {value!r}")


def _check_methods(name: str, value: object) -> None:
    if value is None:
        return
    if isinstance(value, str) or not isinstance(value, (tuple, list)):
        raise TypeError(
            f'{name} must be None or a tuple of methods like ("GET", "POST"), not {value!r}'
        )
    for method in cast("Sequence[object]", value):
        if (
            not isinstance(method, str)
            or not method.isascii()
            or method != method.upper()
            or not method
        ):
            raise ValueError(f"{name}: {method!r} is no HTTP method in capitals")


def _check_keepalive(name: str, value: object) -> None:
    check_seconds(name, value)
    if value == 0:
        raise ValueError(f"{name} must be more than 0 seconds (math.inf for none)")


def _check_retry(name: str, value: object) -> None:
    if value is not None and (isinstance(value, bool) or not isinstance(value, int) or value < 0):
        raise ValueError(f"{name} must be None or milliseconds from 0, not {value!r}")


def _check_rate(name: str, value: object) -> None:
    if value is not None and not isinstance(value, Rate):
        raise TypeError(f"{name} must be None or a Rate(...), not {value!r}")


def _check_choice(name: str, value: object) -> None:
    if value is not None and not isinstance(value, bool):
        raise TypeError(f"{name} must be True, False or None, not {value!r}")


_CHECKS: Final[Mapping[str, Callable[[str, object], None]]] = {
    "idle_timeout": check_seconds,
    "receive_timeout": check_seconds,
    "send_timeout": check_seconds,
    "terminate_timeout": check_seconds,
    "max_body": _check_bytes,
    "max_message_size": _check_bytes,
    "compress": _check_choice,
    "max_rate": _check_rate,
    "max_handlers": check_count,
    "origins": check_origins,
    "methods": _check_methods,
    "keepalive": _check_keepalive,
    "retry": _check_retry,
    "session_expiry": check_seconds,
    "poll_timeout": check_seconds,
    "max_outbox": _check_bytes,
    "mailbox_size": lambda name, value: None,  # together with overflow, below
    "overflow": lambda name, value: None,
}

_ALL_KINDS: Final[tuple[Any, ...]] = (EventStreamHandler, Conversation)
"""What a factory may return, of which nothing is known before a request: all options are theirs."""

_RESERVED: Final = frozenset({"ref", "hub", "request", "nursery", "last_event_id", "transport"})


def check_overrides(factory: object, overrides: Mapping[str, Any]) -> None:
    """Check a route's handler and options, as far as they are known before a request.

    Raises:
        TypeError: no handler, an unknown option, or a value of the wrong type.
        ValueError: an impossible value.
    """
    if isinstance(factory, Handler):
        raise TypeError(
            f"{factory!r} is one handler, which serves one request; give the class, or a callable"
            " that makes a new one each time"
        )
    if not callable(factory) or (isinstance(factory, type) and not issubclass(factory, Handler)):
        raise TypeError(f"a handler class or a callable that returns a handler, not {factory!r}")
    _check_needs_nothing(cast("Any", factory))
    owners = (cast("Any", factory),) if isinstance(factory, type) else _ALL_KINDS
    for name in overrides:
        if not any(_is_option(owner, name) for owner in owners):
            known = sorted(o for o in _CHECKS if any(hasattr(owner, o) for owner in owners))
            who = getattr(cast("object", factory), "__name__", "this handler")
            raise TypeError(f"{who} has no option {name!r}; it has {', '.join(known)}")
    check_options(owners[0], overrides)


def _check_needs_nothing(factory: Callable[..., object]) -> None:
    """Refuse what cannot be called without arguments, as far as its signature tells."""
    if isinstance(factory, type) and _is_made_plainly(factory):
        return  # and the signature of `object`, which is slow to get, need not be read
    try:
        signature = inspect.signature(factory)
    except (TypeError, ValueError):  # as of some callables that are written in C
        return
    try:
        signature.bind()
    except TypeError as error:
        name = getattr(factory, "__name__", repr(factory))
        if isinstance(factory, type):
            raise TypeError(
                f"{name}() cannot be called without arguments: {error}; give a callable that makes"
                f" the handler, such as functools.partial({name}, ...) or a lambda"
            ) from None
        raise TypeError(
            f"{name} is no handler: {error}; a handler is a handler class, or a callable without"
            " arguments that makes one. A plain endpoint, which takes the request, belongs to a"
            " route of Starlette's own: Route(path, endpoint)"
        ) from None


def _is_made_plainly(cls: Any) -> bool:
    return cls.__init__ is object.__init__ and cls.__new__ is object.__new__


def _is_option(owner: Any, name: str) -> bool:
    if name.startswith("_") or name in _RESERVED or not hasattr(owner, name):
        return False
    return name in _CHECKS or not callable(getattr(owner, name))


def check_options(owner: Any, overrides: Mapping[str, Any]) -> None:
    """Check the values that a class or a handler has under these overrides.

    Raises:
        TypeError: a value of the wrong type.
        ValueError: an impossible value.
    """
    values = {name: getattr(owner, name) for name in _CHECKS if hasattr(owner, name)}
    values.update(overrides)
    for name, value in values.items():
        if name in _CHECKS:
            _CHECKS[name](name, value)
    check_mailbox(values["mailbox_size"], values["overflow"])


def make_handler(factory: Factory, overrides: Mapping[str, Any]) -> Handler[Any]:
    """Make the handler of one request.

    Raises:
        TypeError: the factory returned something else, or a handler that has been used.
        Exception: what the factory raises.
    """
    handler = factory()
    if not isinstance(handler, Handler):
        raise TypeError(f"{factory!r} returned {handler!r}, which is no handler")
    if "ref" in vars(handler):
        raise TypeError(f"{factory!r} returned {handler!r} again; a handler serves one request")
    for name, value in overrides.items():
        setattr(handler, name, value)
    if not isinstance(factory, type):
        check_options(handler, {})
    return handler


class Recipe:
    """How a route makes its handlers, and what it has to know before it does.

    Args:
        factory: a handler class, or a callable that returns a handler.
        overrides: the handler's options for this route.

    Attributes:
        max_handlers: handlers of this route that may be open at a time.
    """

    __slots__ = ("_factory", "_overrides", "max_handlers")

    def __init__(self, factory: Factory, overrides: Mapping[str, Any]) -> None:
        self._factory = factory
        self._overrides = overrides
        own: float = getattr(factory, "max_handlers", math.inf)
        self.max_handlers: float = overrides.get("max_handlers", own)

    def __call__(self) -> Handler[Any]:
        return make_handler(self._factory, self._overrides)
