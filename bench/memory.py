"""Memory per idle event stream: trioloop against a bare ASGI application, on the stock worker.

Each application gets a fresh server process. What counts is the growth of its private memory from
a few open streams, when everything is imported, to all of them.
"""

from __future__ import annotations

import argparse
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

from harness import Server, Streams, as_client, print_table, settle

KINDS: Final = {
    "raw ASGI": ("raw", "/events"),
    "trioloop": ("trioloop", "/events"),
    "trioloop hibernating": ("trioloop", "/hibernating"),
}
WARM_UP: Final = 50
"""Streams that are open before the first look."""
REST: Final = 0.5
"""Seconds that a server gets to come to rest."""


@dataclass(frozen=True, slots=True)
class Result:
    """Kilobytes per idle stream.

    Args:
        kind: a key of `KINDS`.
        streams: how many were opened.
        kilobytes: for each of them.
    """

    kind: str
    streams: int
    kilobytes: float


def measure(kind: str, streams: int) -> Result:
    """Measure one kind in a fresh server."""
    service, path = KINDS[kind]
    with (
        as_client(streams + WARM_UP),
        Server(service) as server,
        Streams(server, path, WARM_UP),
    ):
        before = settle(server, REST)
        with Streams(server, path, streams):
            after = settle(server, REST)
    return Result(kind, streams, (after - before) / streams)


def look_inside(kind: str, streams: int) -> tuple[dict[str, Any], dict[str, Any]]:
    """Objects by type and bytes by line, as number and bytes for each stream."""
    service, path = KINDS[kind]
    with (
        as_client(streams + WARM_UP),
        Server(service, tracing=True) as server,
        Streams(server, path, WARM_UP),
    ):
        before = server.ask("objects")
        with Streams(server, path, streams):
            settle(server, REST)
            after = server.ask("objects")

    def grown(by: str) -> dict[str, tuple[float, float]]:
        result = {}
        for name, (number, size) in after[by].items():
            number_before, size_before = before[by].get(name, (0, 0))
            result[name] = (number - number_before) / streams, (size - size_before) / streams
        return result

    return grown("types"), grown("lines")


def print_insides(head: str, sides: Mapping[str, Mapping[str, tuple[float, float]]]) -> None:
    """Print number and bytes of everything of which there is a tenth for each stream."""
    names = {name for side in sides.values() for name, (number, _) in side.items() if number >= 0.1}
    rows: list[tuple[Any, ...]] = []
    for name in names:
        cells = [side.get(name, (0.0, 0.0)) for side in sides.values()]
        rows.append((name, *(number for cell in cells for number in cell)))
    rows.sort(key=lambda row: max(row[2::2]), reverse=True)
    total = [sum(row[column] for row in rows) for column in range(1, 2 * len(sides) + 1)]
    columns = [f"{kind}: {what}" for kind in sides for what in ("number", "bytes")]
    print_table([head, *columns], [*rows, ("all", *total)])
    print()


def main(arguments: list[str] | None = None) -> list[Result]:
    """Measure all kinds and print the table; with ``--where``, say what the memory is."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="a few seconds: does it run?")
    parser.add_argument("--streams", type=int, default=5_000)
    parser.add_argument("--where", action="store_true", help="objects by type, bytes by line")
    options = parser.parse_args(arguments)
    streams: int = 100 if options.quick else options.streams
    if options.where:
        insides = {kind: look_inside(kind, min(streams, 500)) for kind in KINDS}
        print_insides("type", {kind: types for kind, (types, _) in insides.items()})
        print_insides("line", {kind: lines for kind, (_, lines) in insides.items()})
    results = [measure(kind, streams) for kind in KINDS]
    raw = results[0].kilobytes
    print(f"kB of private memory per idle stream, {streams} of them, stock Hypercorn Trio worker")
    print_table(
        ["application", "kB", "over raw"],
        [(result.kind, result.kilobytes, result.kilobytes - raw) for result in results],
    )
    return results


if __name__ == "__main__":
    main()
