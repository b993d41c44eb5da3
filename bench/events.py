"""CPU per event: trioloop against a bare ASGI application, both on the stock Hypercorn Trio worker.

The rounds of the two take turns, and a ratio is the median of the ratios of neighbours: whatever
else the machine does meets both.
"""

from __future__ import annotations

import argparse
from contextlib import ExitStack
from dataclasses import dataclass
from statistics import median, quantiles

from harness import Server, Streams, as_client, print_table


@dataclass(frozen=True, slots=True)
class Result:
    """CPU microseconds per event.

    Args:
        connections: streams that get every event.
        burst: messages that are ready at once for each.
        trioloop: the median of trioloop.
        raw: the median of the bare application.
        ratio: the median of trioloop / raw over pairs of rounds.
        ratios: of each pair.
    """

    connections: int
    burst: int
    trioloop: float
    raw: float
    ratio: float
    ratios: tuple[float, ...]


def measure(
    connections: int, burst: int, *, events: int, repeats: int, service: str = "trioloop"
) -> Result:
    """Measure one case.

    Args:
        connections: streams.
        burst: messages published at once.
        events: events of one turn, roughly.
        repeats: turns of each.
        service: what is compared with ``raw``.
    """
    rounds = max(1, events // (connections * burst))
    with as_client(2 * connections), ExitStack() as stack:
        sides: list[tuple[Server, Streams]] = []
        for name in (service, "raw"):
            server = stack.enter_context(Server(name, counting=True))
            streams = stack.enter_context(Streams(server, "/events", connections))
            sides.append((server, streams))
        costs: list[list[float]] = [[], []]
        for turn in range(repeats + 1):
            for (server, streams), cost in zip(sides, costs, strict=True):
                micros = one_turn(server, streams, rounds, burst)
                if turn:  # the first one warms up
                    cost.append(micros)
    ratios = tuple(ours / theirs for ours, theirs in zip(*costs, strict=True))
    return Result(connections, burst, median(costs[0]), median(costs[1]), median(ratios), ratios)


def one_turn(server: Server, streams: Streams, rounds: int, burst: int) -> float:
    """CPU microseconds per event of one turn."""
    streams.received = 0
    written: dict[str, float] = server.ask(f"publish?rounds={rounds}&burst={burst}", streams)
    streams.read_until_received(int(written["bytes"]))
    return 1e6 * written["seconds"] / written["events"]


def main(arguments: list[str] | None = None) -> list[Result]:
    """Measure all cases and print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="a few seconds: does it run?")
    parser.add_argument("--repeats", type=int, default=31, help="turns of each application")
    parser.add_argument("--service", default="trioloop", choices=("trioloop", "endpoint"))
    options = parser.parse_args(arguments)
    cases = [(100, 1, 3_000), (100, 10, 10_000), (1000, 1, 6_000), (1000, 10, 10_000)]
    if options.quick:
        cases, options.repeats = [(20, 1, 1_000), (20, 10, 2_000)], 3
    results = [
        measure(connections, burst, events=events, repeats=options.repeats, service=options.service)
        for connections, burst, events in cases
    ]
    print("CPU µs per event, stock Hypercorn Trio worker")
    print_table(
        ["case", options.service, "raw ASGI", "ratio", "a quarter below", "above"],
        [
            (
                f"{result.connections} streams, burst {result.burst}",
                result.trioloop,
                result.raw,
                result.ratio,
                *quantiles(result.ratios)[::2],
            )
            for result in results
        ],
    )
    return results


if __name__ == "__main__":
    main()
