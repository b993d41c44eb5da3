"""A soak: 10,000 idle event streams and 200 active ones for five minutes, with flat memory.

Fails when the server's private memory grows, from a minute after the start to the end, by more than
it is allowed to.
"""

from __future__ import annotations

import argparse
import time

from harness import as_client
from servers import Streams, peer

ALLOWED = 0.02
"""The part of its memory by which the server may grow: what an allocator leaves in pieces."""


def main(arguments: list[str] | None = None) -> None:
    """Soak, and print a line for each look."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="a few seconds: does it run?")
    options = parser.parse_args(arguments)
    idle, active, seconds = (500, 20, 6.0) if options.quick else (10_000, 200, 300.0)
    with as_client(idle + active + 200), peer("soak") as server:
        streams = Streams(server, active, "/active")
        sleeping = Streams(server, idle)
        begin = time.monotonic()
        sizes: list[tuple[float, int]] = []
        while (now := time.monotonic() - begin) < seconds:
            until = now + seconds / 30
            while time.monotonic() - begin < until:
                streams.read(0.1)
            sizes.append((until, server.kilobytes()))
            print(f"{until:6.1f} s: {sizes[-1][1]} kB, {streams.received} events", flush=True)
        assert streams.received > active * seconds, "the active streams have got too little"
        settled = next(size for when, size in sizes if when >= seconds / 5)
        grown = sizes[-1][1] / settled - 1
        print(f"grown by {100 * grown:.1f} % since {seconds / 5:g} s")
        streams.close()
        sleeping.close()
    if grown > ALLOWED and not options.quick:
        raise SystemExit(f"more than {100 * ALLOWED:g} %")


if __name__ == "__main__":
    main()
