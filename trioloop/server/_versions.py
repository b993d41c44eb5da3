"""Whether the installed Hypercorn is one that this package fits.

The law of this file: what does not fit is found before anything is served, and costs one sentence
in the log and the speed, never the service: then Hypercorn's own worker serves.
"""

from __future__ import annotations

from importlib import import_module
from importlib.metadata import version

FITS = "0.18."
"""The versions of Hypercorn from whose inside this package takes its parts."""

_PARTS = {
    "hypercorn.trio.run": ("worker_serve", "TCPServer"),
    "hypercorn.trio.tcp_server": ("TCPServer",),
    "hypercorn.trio.task_group": ("TaskGroup",),
    "hypercorn.protocol.h2": ("BUFFER_LOW_WATER", "H2Protocol", "StreamBuffer"),
    "hypercorn.protocol.http_stream": ("HTTPStream",),
    "websockets.protocol": ("Protocol", "SERVER"),
}


def find_misfit() -> str | None:
    """Say why this package's worker cannot serve with what is installed, or `None`."""
    try:
        installed = version("hypercorn")
        if not installed.startswith(FITS):
            return f"Hypercorn is {installed}, not {FITS}x"
        for name, parts in _PARTS.items():
            module = import_module(name)
            for part in parts:
                if not hasattr(module, part):
                    return f"{name} has no {part}"
        protocols = import_module("websockets.protocol")
        protocol = protocols.Protocol(protocols.SERVER)
        for part in ("current_size", "max_message_size", "parser_exc", "reader", "writes"):
            if not hasattr(protocol, part):
                return f"websockets' Protocol has no {part}"
        names = import_module("hypercorn.trio.run").worker_serve.__code__.co_names
    except Exception as error:  # whatever a broken installation raises
        return f"{type(error).__name__}: {error}"
    for name in ("TCPServer", "serve_listeners"):
        if name not in names:
            return f"hypercorn.trio.run.worker_serve no longer looks for {name}"
    return None
