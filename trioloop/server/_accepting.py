"""Connections that come to the listening sockets of a worker.

The laws of this file:

* It does what Trio's ``serve_listeners`` does, with the same patience where the system has no room or
  a client has gone again. But what it gives away is a plain socket, and whoever serves it closes it:
  a stream of Trio's, which nobody reads, and its closing inside of a cancelled scope would cost half as
  much as everything else that is done for a connection.
* One connection is taken in a turn of the scheduler: workers who share a socket share what comes.
* A socket with TLS is Trio's.
"""

from __future__ import annotations

import errno
import logging
import os
import socket
from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress
from functools import partial
from typing import Any, Final, NoReturn, TypeAlias

import trio

from ._scope import address_of

Listener: TypeAlias = trio.SocketListener | trio.SSLListener[trio.SocketStream]

NO_ROOM: Final = frozenset((errno.EMFILE, errno.ENFILE, errno.ENOMEM, errno.ENOBUFS))
"""What ``accept`` says where the system has no room for another connection just now."""
PAUSE: Final = 0.1
"""Seconds until it is tried again."""
_OF_CLIENTS: Final = (
    "EPERM ECONNABORTED EPROTO ENETDOWN ENOPROTOOPT EHOSTDOWN ENONET EHOSTUNREACH EOPNOTSUPP "
    "ENETUNREACH ENOSR ESOCKTNOSUPPORT EPROTONOSUPPORT ETIMEDOUT ECONNRESET"
)
CLIENTS_OWN: Final = frozenset(getattr(errno, name, 0) for name in _OF_CLIENTS.split())
"""What it says of one client that has gone again, or was refused by a firewall: Trio's list."""
NOT_SENT: Final = 16 * 1024
"""Bytes of a connection that the system may hold unsent before it takes no more, as Trio has it."""

logger = logging.getLogger("trioloop.server")


async def serve_listeners(
    serve: Callable[..., Awaitable[object]],
    listeners: Sequence[Listener],
    *,
    handler_nursery: trio.Nursery,
) -> None:
    """Accept connections and start a task for each, until cancelled.

    Args:
        serve: called with a plain socket and the client's address, or with a stream of Trio's.
        listeners: where connections come. They are closed.
        handler_nursery: where the tasks run.

    Source: ``trio.serve_listeners``, which takes the same arguments.
    """
    async with trio.open_nursery() as nursery:
        for listener in listeners:
            if isinstance(listener, trio.SocketListener):
                nursery.start_soon(_accept, listener, serve, handler_nursery)
            else:
                theirs: Any = partial(trio.serve_listeners, handler_nursery=handler_nursery)
                nursery.start_soon(theirs, serve, [listener])


async def _accept(
    listener: trio.SocketListener,
    serve: Callable[..., Awaitable[object]],
    nursery: trio.Nursery,
) -> NoReturn:
    async with listener:
        with _plain(listener) as listening:
            family = listening.family
            while True:
                try:
                    sock, name = listening.accept()
                except BlockingIOError:
                    await trio.lowlevel.wait_readable(listening)
                except OSError as error:
                    await _bear(error)
                else:
                    sock.setblocking(False)
                    nursery.start_soon(serve, sock, address_of(family, name))
                    await trio.lowlevel.checkpoint()


def _plain(listener: trio.SocketListener) -> socket.socket:
    """The socket of a listener, once more; what is set here its connections have, too."""
    theirs = listener.socket
    own = socket.fromfd(theirs.fileno(), theirs.family, theirs.type, theirs.proto)
    own.setblocking(False)
    with suppress(OSError):  # a Unix socket has no such options
        own.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        if hasattr(socket, "TCP_NOTSENT_LOWAT"):
            own.setsockopt(socket.IPPROTO_TCP, socket.TCP_NOTSENT_LOWAT, NOT_SENT)
    return own


async def _bear(error: OSError) -> None:
    """Wait until it is worth while to try again.

    Raises:
        OSError: it never will be.
    """
    if error.errno in NO_ROOM:
        why = os.strerror(error.errno)
        logger.error("no connection can be accepted: %s; again in %s seconds", why, PAUSE)
        await trio.sleep(PAUSE)
    elif error.errno in CLIENTS_OWN:
        await trio.lowlevel.checkpoint()
    else:
        raise error
