"""CPU per long poll: trioloop against a bare ASGI application, both on the stock Hypercorn Trio worker.

Each client keeps its connection and asks again when it has its answer. The turns alternate, and
the ratio is the median of the ratios of neighbours.
"""

from __future__ import annotations

import argparse
import select
import socket
from contextlib import ExitStack
from dataclasses import dataclass
from statistics import median, quantiles

from harness import PATIENCE, Server, as_client, complete, print_table, request


@dataclass(frozen=True, slots=True)
class Result:
    """CPU microseconds per request.

    Args:
        connections: clients that ask at the same time.
        trioloop: the median of trioloop.
        raw: the median of the bare application.
        ratio: the median of trioloop / raw over pairs of turns.
        ratios: of each pair.
    """

    connections: int
    trioloop: float
    raw: float
    ratio: float
    ratios: tuple[float, ...]


def measure(connections: int, *, requests: int, repeats: int) -> Result:
    """Measure.

    Args:
        connections: clients that ask at the same time.
        requests: requests of one turn, all clients together.
        repeats: turns of each application.
    """
    with as_client(2 * connections), ExitStack() as stack:
        servers = [stack.enter_context(Server(name)) for name in ("trioloop", "raw")]
        sides = [
            [stack.enter_context(server.connect()) for _ in range(connections)]
            for server in servers
        ]
        costs: list[list[float]] = [[], []]
        for turn in range(repeats + 1):
            for server, clients, cost in zip(servers, sides, costs, strict=True):
                before = server.cpu_seconds()
                poll_all(clients, requests)
                if turn:  # the first one warms up
                    cost.append(1e6 * (server.cpu_seconds() - before) / requests)
    ratios = tuple(ours / theirs for ours, theirs in zip(*costs, strict=True))
    return Result(connections, median(costs[0]), median(costs[1]), median(ratios), ratios)


def poll_all(clients: list[socket.socket], requests: int) -> None:
    """Make so many requests, one at a time on each connection."""
    text = request("/poll")
    asked = 0
    waiting: dict[int, tuple[socket.socket, bytes]] = {}
    with select.epoll() as poll:
        for client in clients[:requests]:
            poll.register(client, select.EPOLLIN)
            client.sendall(text)
            asked += 1
            waiting[client.fileno()] = client, b""
        while waiting:
            ready = poll.poll(PATIENCE)
            if not ready:
                raise TimeoutError("the server has stopped")
            for fd, _ in ready:
                client, before = waiting[fd]
                answer = before + (data := client.recv(65536))
                if not data or not answer.startswith(b"HTTP/1.1 200"[: len(answer)]):
                    raise ConnectionError(f"no answer: {answer!r}")
                if not complete(answer):
                    waiting[fd] = client, answer
                elif asked < requests:
                    client.sendall(text)
                    asked += 1
                    waiting[fd] = client, b""
                else:
                    del waiting[fd]


def main(arguments: list[str] | None = None) -> Result:
    """Measure and print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="a few seconds: does it run?")
    parser.add_argument("--repeats", type=int, default=21, help="turns of each application")
    options = parser.parse_args(arguments)
    if options.quick:
        result = measure(10, requests=200, repeats=3)
    else:
        result = measure(50, requests=1_000, repeats=options.repeats)
    print("CPU µs per long poll, stock Hypercorn Trio worker")
    print_table(
        ["case", "trioloop", "raw ASGI", "ratio", "a quarter below", "above"],
        [
            (
                f"{result.connections} connections",
                result.trioloop,
                result.raw,
                result.ratio,
                *quantiles(result.ratios)[::2],
            )
        ],
    )
    return result


if __name__ == "__main__":
    main()
