"""One server process: a service on the stock Hypercorn Trio worker, and a door to measure it by.

Run by `harness.Server`. Requests below ``/bench/`` are answered here, with JSON:

``publish?rounds=n&burst=m``
    Runs ``n`` rounds: publishes ``m`` messages, and waits until they are written to every stream.
    Gives the ``events`` and ``bytes`` written, and the CPU ``seconds`` of the process meanwhile.
``cpu``
    The CPU seconds of the process so far.
``settle``
    Collects garbage.
``objects``
    What is alive: objects by type, and allocated bytes by line where tracemalloc runs.

"Written" is found alike for every service: the server's ``send`` is wrapped, and a round is over
when the bytes of body that came back from it are as many as were published.
"""

from __future__ import annotations

import argparse
import gc
import json
import os
import sys
import time
import tracemalloc
from collections import Counter
from urllib.parse import parse_qs

import hypercorn.trio
import trio
from applications import DATA, EVENT_SIZE, SERVICES, Message, Receive, Scope, Send, Service
from hypercorn.config import Config


class Door:
    """A service with the door in front of it.

    Args:
        service: what is measured.
        counting: whether ``send`` is wrapped, which `publish` needs.
    """

    def __init__(self, service: Service, *, counting: bool) -> None:
        self._service = service
        self._counting = counting
        self._written = 0
        self._awaited = 0
        self._reached = trio.Event()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer at the door, or let the service do it."""
        if scope["type"] == "http" and scope["path"].startswith("/bench/"):
            await self._answer(scope, send)
        elif scope["type"] == "http" and self._counting:
            await self._service.app(scope, receive, self._count(send))
        else:
            await self._service.app(scope, receive, send)

    def _count(self, send: Send) -> Send:
        async def counting_send(message: Message) -> None:
            await send(message)
            self._written += len(message.get("body", b""))
            if self._written >= self._awaited:
                self._reached.set()

        return counting_send

    async def _answer(self, scope: Scope, send: Send) -> None:
        query = parse_qs(scope["query_string"].decode())
        numbers = {name: int(values[0]) for name, values in query.items()}
        match scope["path"].removeprefix("/bench/"):
            case "publish":
                answer: object = await self.publish(**numbers)
            case "cpu":
                answer = time.process_time()
            case "settle":
                answer = gc.collect()
            case "objects":
                answer = count_objects()
            case unknown:
                answer = f"no {unknown} here"
        body = json.dumps(answer).encode()
        headers = [(b"content-length", b"%d" % len(body)), (b"connection", b"close")]
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        await send({"type": "http.response.body", "body": body})

    async def publish(self, rounds: int, burst: int) -> dict[str, float]:
        """Publish, and wait until all is written."""
        self._written = self._awaited = events = 0
        start = time.process_time()
        for _ in range(rounds):
            for _ in range(burst):
                events += self._service.publish(DATA)
            self._awaited = events * EVENT_SIZE
            self._reached = trio.Event()
            await self._reached.wait()
        seconds = time.process_time() - start
        return {"events": events, "bytes": events * EVENT_SIZE, "seconds": seconds}


def count_objects() -> dict[str, dict[str, list[int]]]:
    """What is alive: name to number and bytes, by type and by line."""
    gc.collect()
    types: dict[str, list[int]] = {}
    numbers: Counter[str] = Counter()
    sizes: Counter[str] = Counter()
    for thing in gc.get_objects():
        name = f"{type(thing).__module__}.{type(thing).__qualname__}".removeprefix("builtins.")
        numbers[name] += 1
        sizes[name] += sys.getsizeof(thing)
    types = {name: [number, sizes[name]] for name, number in numbers.items()}
    lines: dict[str, list[int]] = {}
    if tracemalloc.is_tracing():
        for line in tracemalloc.take_snapshot().statistics("lineno"):
            frame = line.traceback[0]
            lines[f"{shorten(frame.filename)}:{frame.lineno}"] = [line.count, line.size]
    return {"types": types, "lines": lines}


def shorten(path: str) -> str:
    """A path without what comes before the package."""
    for root in sorted(filter(None, sys.path), key=len, reverse=True):
        if path.startswith(f"{root}/"):
            return path.removeprefix(f"{root}/")
    return path


def main() -> None:
    """Serve until killed."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("service", choices=SERVICES)
    parser.add_argument("fd", type=int, help="a socket that is bound")
    parser.add_argument("--cpu", type=int, help="the core to stay on")
    parser.add_argument("--counting", action="store_true", help="wrap send, for publish")
    options = parser.parse_args()
    if options.cpu is not None:
        os.sched_setaffinity(0, {options.cpu})
    config = Config()
    config.bind = [f"fd://{options.fd}"]
    config.loglevel = "WARNING"
    config.backlog = 1000  # a dropped SYN comes again after seconds, when others have timed out
    config.keep_alive_timeout = 3600  # clients are idle while it is the other application's turn
    config.keep_alive_max_requests = 10**9
    door = Door(SERVICES[options.service](), counting=options.counting)
    trio.run(hypercorn.trio.serve, door, config)


if __name__ == "__main__":
    main()
