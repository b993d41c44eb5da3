"""The server among its peers: CPU per event, request and connection, latency, memory.

Each peer is a process of its own, on one core; this one is the load client, on the other. All peers
of a case run in the same rounds, one after the other, and the median of the rounds is shown, with
its ratio to the peer that it is compared with.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import select
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field
from importlib.metadata import version
from pathlib import Path
from statistics import median
from typing import Any, Final

from harness import PATIENCE, as_client, cores, request

HERE: Final = Path(__file__).parent
EVENT: Final = b"x" * 100
EVENT_SIZE: Final = 108  # data: , 100 bytes, two LF


class Peer:
    """A server process.

    Args:
        name: of `peers.PEERS`.
    """

    def __init__(self, name: str) -> None:
        self.name = name
        path = os.pathsep.join(filter(None, [str(HERE.parent), os.environ.get("PYTHONPATH")]))
        with socket.socket() as listener:
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            listener.bind(("127.0.0.1", 0))
            listener.listen(8192)
            self.address = listener.getsockname()
            command = [sys.executable, str(HERE / "peers.py"), name]
            command += [str(listener.fileno()), str(cores()[0])]
            self.process = subprocess.Popen(  # noqa: S603 - ourselves
                command, pass_fds=[listener.fileno()], env={**os.environ, "PYTHONPATH": path}
            )

    def connect(self) -> socket.socket:
        """Open a connection."""
        return socket.create_connection(self.address, timeout=PATIENCE)

    def cpu(self) -> float:
        """CPU seconds so far."""
        fields = Path(f"/proc/{self.process.pid}/stat").read_text().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")

    def kilobytes(self) -> int:
        """Memory that it shares with nobody."""
        lines = Path(f"/proc/{self.process.pid}/smaps_rollup").read_text().splitlines()[1:]
        return sum(int(line.split()[1]) for line in lines if line.startswith("Private_"))

    def close(self) -> None:
        """End it."""
        self.process.kill()
        self.process.wait()


@contextmanager
def peer(name: str) -> Iterator[Peer]:
    """A peer that runs."""
    made = Peer(name)
    try:
        yield made
    finally:
        made.close()


class Streams:
    """Event streams that are open, and read when there is something to read."""

    def __init__(self, server: Peer, number: int, path: str = "/events") -> None:
        self._poll = select.epoll()
        self.sockets: dict[int, socket.socket] = {}
        self.received = 0
        self._rest: dict[int, bytes] = {}  # of each socket: the beginning of an event, perhaps
        while len(self.sockets) < number:
            fresh = [server.connect() for _ in range(min(100, number - len(self.sockets)))]
            for sock in fresh:
                sock.sendall(request(path))
            for sock in fresh:
                head = b""
                while b"\r\n\r\n" not in head:
                    head += sock.recv(65536)
                assert b" 200 " in head, head
                sock.setblocking(False)
                self.sockets[sock.fileno()] = sock
                self._poll.register(sock, select.EPOLLIN)

    def read(self, timeout: float, seen: Callable[[bytes], object] | None = None) -> None:
        """Read once what there is."""
        for fd, _ in self._poll.poll(timeout):
            try:
                data = self.sockets[fd].recv(65536)
            except BlockingIOError:
                continue
            if not data:
                raise ConnectionError("a stream has ended")
            self._count(fd, data)
            if seen is not None:
                seen(data)

    def _count(self, fd: int, data: bytes) -> None:
        """Count events, also those that two reads have brought."""
        *events, rest = (self._rest.get(fd, b"") + data).split(EVENT)
        self.received += len(events)
        self._rest[fd] = rest[1 - len(EVENT) :]

    def ask(self, server: Peer, path: str, seen: Callable[[bytes], object] | None = None) -> Any:
        """Ask something, and read the streams until it is answered."""
        with server.connect() as sock:
            sock.sendall(request(path))
            sock.setblocking(False)
            answer = b""
            while b"}" not in answer:
                self.read(0.01, seen)
                with suppress(BlockingIOError):
                    answer += sock.recv(65536)
        start = answer.index(b"{")
        return json.loads(answer[start : answer.index(b"}") + 1])

    def close(self) -> None:
        """Close them."""
        self._poll.close()
        for sock in self.sockets.values():
            sock.close()


@dataclass
class Case:
    """One line of the table.

    Args:
        title: what is measured.
        peers: who is.
        against: the peer to which the others are compared, and the limit of each ratio.
        measure: measures once, given a peer and what `prepare` gave.
        unit: of the figures.
    """

    title: str
    peers: tuple[str, ...]
    against: str
    limits: dict[str, float]
    connections: int
    measure: Callable[[Peer, Any], float]
    prepare: Callable[[Peer, int], Any]
    unit: str = "µs"
    rounds: int | None = None
    figures: dict[str, list[float]] = field(default_factory=dict)


def run(case: Case, rounds: int) -> None:
    """Measure a case; the first round warms up."""
    with as_client(case.connections * len(case.peers) + 200), ExitStack() as stack:
        sides = []
        for name in case.peers:
            server = stack.enter_context(peer(name))
            sides.append((server, case.prepare(server, case.connections)))
        for turn in range(rounds + 1):
            for server, prepared in sides:
                figure = case.measure(server, prepared)
                if turn:
                    case.figures.setdefault(server.name, []).append(figure)
        for _, prepared in sides:
            prepared.close()


def events(burst: int, connections: int, number: int) -> Callable[[Peer, Streams], float]:
    """CPU µs per event."""
    rounds = max(1, number // (burst * connections))

    def measure(server: Peer, streams: Streams) -> float:
        streams.received = 0
        said = streams.ask(server, f"/publish?rounds={rounds}&burst={burst}")
        until = time.monotonic() + PATIENCE
        while streams.received < said["events"]:
            streams.read(0.1)
            assert time.monotonic() < until, f"{server.name}: {streams.received} of {said}"
        return 1e6 * said["seconds"] / said["events"]

    return measure


class Polls:
    """Connections that poll, each again when it is answered."""

    def __init__(self, server: Peer, number: int) -> None:
        self.sockets = [server.connect() for _ in range(number)]

    def close(self) -> None:
        """Close them."""
        for sock in self.sockets:
            sock.close()


def exchange(
    number: int, question: bytes, is_complete: Callable[[bytes], bool]
) -> Callable[[Peer, Any], float]:
    """CPU µs per question that is answered."""

    def measure(server: Peer, polls: Any) -> float:
        poll = select.epoll()
        by_fd = {sock.fileno(): sock for sock in polls.sockets}
        buffers = dict.fromkeys(by_fd, b"")
        begin = server.cpu()
        asked = done = 0
        for fd, sock in by_fd.items():
            poll.register(fd, select.EPOLLIN)
            sock.sendall(question)
            asked += 1
        while done < asked:
            for fd, _ in poll.poll(PATIENCE):
                data = by_fd[fd].recv(65536)
                if not data:
                    raise ConnectionError(f"{server.name} has hung up")
                buffers[fd] += data
                if is_complete(buffers[fd]):
                    buffers[fd] = b""
                    done += 1
                    if asked < number:
                        asked += 1
                        by_fd[fd].sendall(question)
        return 1e6 * (server.cpu() - begin) / done

    return measure


def is_poll_answered(data: bytes) -> bool:
    """Whether the answer of ``/poll`` is there."""
    return data.endswith(b"x" * 100)


def set_up(number: int, at_once: int = 20) -> Callable[[Peer, Any], float]:
    """CPU µs per connection: accepted, asked for an event stream, answered, and left."""
    question = request("/first")

    def measure(server: Peer, control: Polls) -> float:
        begin = server.cpu()
        for _ in range(number // at_once):
            fresh = [server.connect() for _ in range(at_once)]
            for sock in fresh:
                sock.sendall(question)
            for sock in fresh:
                answer = b""
                while b"x" * 100 not in answer:
                    answer += (data := sock.recv(65536))
                    assert data, f"{server.name} has hung up: {answer!r}"
                sock.close()
        until = time.monotonic() + PATIENCE
        while still_open(control.sockets[0]):  # their ends are part of it
            assert time.monotonic() < until, f"{server.name} does not see that clients have left"
        return 1e6 * (server.cpu() - begin) / number

    return measure


def still_open(sock: socket.socket) -> int:
    """How many streams of ``/first`` the application has."""
    sock.sendall(request("/publish?rounds=0&burst=0"))
    answer = b""
    while b"}" not in answer:
        answer += sock.recv(65536)
    return int(json.loads(answer[answer.index(b"{") :])["first"])


def websockets(server: Peer, number: int, path: str = "/ws") -> Polls:
    """WebSockets that are open."""
    made = Polls(server, number)
    for sock in made.sockets:
        sock.sendall(
            b"GET %b HTTP/1.1\r\nhost: localhost\r\nconnection: Upgrade\r\nupgrade: websocket\r\n"
            b"sec-websocket-version: 13\r\nsec-websocket-key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n"
            % path.encode()
        )
        head = b""
        while b"\r\n\r\n" not in head:
            head += sock.recv(4096)
        assert b" 101 " in head, head
    return made


TEXT: Final = bytes((0x81, 0x80 | 100)) + bytes(4) + b"x" * 100


class Latencies:
    """Times between publishing and arriving, at a steady rate.

    Args:
        scale: 1000 for milliseconds.
    """

    def __init__(self, rate: float, seconds: float, quantile: float, scale: float = 1000) -> None:
        self._rate, self._seconds, self._quantile = rate, seconds, quantile
        self._scale = scale

    def __call__(self, server: Peer, streams: Streams) -> float:
        """Measure; returns the time at the quantile."""
        times: list[float] = []

        def seen(data: bytes) -> None:
            now = time.monotonic()
            parts = data.split(b"data: ")[1:]
            times.extend(now - float(part[:24].split()[0]) for part in parts)

        streams.ask(server, f"/tick?rate={self._rate}&seconds={self._seconds}", seen)
        times.sort()
        return self._scale * times[int(len(times) * self._quantile)]


def quiet_latency(  # noqa: C901 - one loop over all that happens
    server: Peer, polls: Polls, seconds: float, *, flooded: bool
) -> float:
    """Milliseconds at the 99th percentile of polls that come now and then, beside a flood or not."""
    question = request("/poll")
    flood = server.connect() if flooded else None
    times: list[float] = []
    until = time.monotonic() + seconds
    poll = select.epoll()
    if flood is not None:
        flood.setblocking(False)
        poll.register(flood, select.EPOLLIN | select.EPOLLOUT)
    for sock in polls.sockets:
        poll.register(sock, select.EPOLLIN)
    by_fd = {sock.fileno(): sock for sock in polls.sockets}
    asked: dict[int, float] = {}
    turn = 0
    while time.monotonic() < until:
        sock = polls.sockets[turn % len(polls.sockets)]
        turn += 1
        if sock.fileno() not in asked:
            asked[sock.fileno()] = time.monotonic()
            sock.sendall(question)
        wait = time.monotonic() + 0.005
        while (left := wait - time.monotonic()) > 0:
            for fd, event in poll.poll(left):
                if fd in by_fd:
                    if is_poll_answered(by_fd[fd].recv(65536)):
                        times.append(time.monotonic() - asked.pop(fd, time.monotonic()))
                elif flood is not None:
                    with suppress(BlockingIOError):
                        if event & select.EPOLLIN:
                            flood.recv(2**20)
                        flood.send(question * 20)
    poll.close()
    if flood is not None:
        flood.close()
    times.sort()
    return 1000 * times[int(len(times) * 0.99)]


def fairness(name: str, seconds: float) -> tuple[float, float]:
    """The latency of 99 quiet connections without a flood and beside one, in milliseconds."""
    with as_client(400), peer(name) as server:
        polls = Polls(server, 99)
        quiet_latency(server, polls, 1, flooded=False)  # warms up
        alone = quiet_latency(server, polls, seconds, flooded=False)
        beside = quiet_latency(server, polls, seconds, flooded=True)
        polls.close()
    return alone, beside


def cases(options: argparse.Namespace) -> list[Case]:
    """The table."""
    sse, raw = "uvicorn starlette", "uvicorn raw"
    scale = 10 if options.quick else 1
    made = []
    for connections, burst, handler, relay in (
        (100, 1, 0.65, 0.8),
        (100, 10, 0.35, 0.8),
        (1000, 10, 0.35, 0.8),
    ):
        number = (20_000 if burst == 1 else 60_000) // scale
        measure = events(burst, connections, number)
        title = f"{connections} streams, burst {burst}"
        made.append(
            Case(title, ("handler", sse), sse, {"handler": handler}, connections, measure, Streams)
        )
        made.append(
            Case(
                f"{title}: relay",
                ("relay", raw),
                raw,
                {"relay": relay},
                connections,
                measure,
                Streams,
            )
        )
    many = 500 if options.quick else 10_000
    made.append(
        Case(
            f"{many} streams, burst 10",
            ("handler",),
            "handler",
            {},
            many,
            events(10, many, 200_000 // scale),
            Streams,
        )
    )
    measure = events(10, 100, 20_000 // scale)
    made.append(
        Case(
            "raw ASGI, 100 streams, burst 10",
            ("raw", "stock raw", raw),
            "stock raw",
            {"raw": 0.25},
            100,
            measure,
            Streams,
        )
    )
    polls = exchange(10_000 // scale, request("/poll"), is_poll_answered)
    made.append(
        Case("long poll, 50", ("handler", "raw", sse), sse, {"handler": 1.5}, 50, polls, Polls)
    )
    echoes = exchange(30_000 // scale, TEXT, lambda data: len(data) >= 102)
    made.append(
        Case(
            "WebSocket echo, 50",
            ("handler", "raw", sse),
            sse,
            {"handler": 1.3},
            50,
            echoes,
            websockets,
        )
    )
    made += [
        Case(
            f"connection set up{how}",
            (name, f"stock {name}"),
            f"stock {name}",
            {name: 0.333},
            1,
            set_up(2_000 // scale),
            Polls,
        )
        for name, how in (("handler", ""), ("raw", ", raw ASGI"))
    ]
    made += [
        Case(
            f"10 streams at 20/s, p50{how}",
            peers,
            against,
            {peers[0]: 1.0},
            10,
            Latencies(20, 3 / scale, 0.5, 1e6),
            Streams,
            rounds=9,
        )
        for how, peers, against in (
            ("", ("handler", "raw", sse), sse),
            (": batches", ("handler", "one by one"), "one by one"),
            (": end of turn", ("relay", "relay at once"), "relay at once"),
        )
    ]
    made += [
        Case(
            f"1000 streams at 20/s, p{100 * quantile:g}",
            ("handler", sse),
            sse,
            {"handler": 1.0},
            100 if options.quick else 1000,
            Latencies(20, 5 / scale, quantile),
            Streams,
            "ms",
            5,
        )
        for quantile in (0.5, 0.99)
    ]
    return [case for case in made if options.only in case.title]


IDLE: Final[dict[str, Callable[[Peer, int], Any]]] = {
    "idle stream": Streams,
    "idle WebSocket": lambda server, number: websockets(server, number, "/chat"),
}
"""What is opened, to see how much memory it takes."""
IDLE_PEERS: Final = {
    "idle stream": ("handler", "hibernating", "raw", "uvicorn starlette"),
    "idle WebSocket": ("handler", "hibernating", "raw", "uvicorn starlette"),
}
IDLE_LIMITS: Final = {("idle WebSocket", "hibernating"): "14 kB"}


def memory(name: str, number: int, what: Callable[[Peer, int], Any]) -> float:
    """Kilobytes of each of so many idle connections."""
    with as_client(number + 300), peer(name) as server:
        few = what(server, 50)
        time.sleep(1)  # memory settles with no event to wait for
        before = server.kilobytes()
        many = what(server, number)
        time.sleep(2)  # as above: what was freed has no event to wait for
        grown = server.kilobytes() - before
        few.close()
        many.close()
    return grown / number


def versions() -> str:
    """What was measured."""
    names = ("trio", "hypercorn", "websockets", "uvicorn", "uvloop", "httptools", "starlette")
    parts = [f"{name} {version(name)}" for name in (*names, "sse-starlette")]
    return f"Python {platform.python_version()}, {', '.join(parts)}"


def table(measured: list[Case], sizes: dict[tuple[str, str], float]) -> Iterator[str]:
    """The lines of a Markdown table."""
    yield "| case | peer | median | ratio | at most |"
    yield "|---|---|---|---|---|"
    for case in measured:
        base = median(case.figures[case.against])
        for name in case.peers:
            figure = median(case.figures[name])
            limit = case.limits.get(name)
            shown = "" if limit is None else f"{limit:g}"
            yield f"| {case.title} | {name} | {figure:.1f} {case.unit} | {figure / base:.2f} | {shown} |"
    for (title, name), size in sizes.items():
        limit = IDLE_LIMITS.get((title, name), "")
        yield f"| {title} | {name} | {size:.1f} kB | | {limit} |"


def main(arguments: list[str] | None = None) -> None:
    """Measure, print the table, and write it where asked."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="a few seconds: does it run?")
    parser.add_argument("--rounds", type=int, default=3, help="rounds that count")
    parser.add_argument("--only", default="", help="cases with this in their title")
    parser.add_argument("--streams", type=int, default=5000, help="idle connections for the memory")
    parser.add_argument("--write", type=Path, help="a Markdown page whose table is replaced")
    options = parser.parse_args(arguments)
    measured = cases(options)
    for case in measured:
        run(case, 1 if options.quick else case.rounds or options.rounds)
        for line in list(table([case], {}))[2:]:
            print(line, flush=True)
    number = 200 if options.quick else options.streams
    sizes = {
        (title, name): memory(name, number, IDLE[title])
        for title, names in IDLE_PEERS.items()
        if options.only in title
        for name in names
    }
    lines = [*table(measured, sizes)]
    if options.only in "fairness":
        for name in ("handler", "raw"):
            alone, beside = fairness(name, 1 if options.quick else 5)
            lines.append(
                f"| p99 of 99 quiet connections beside a flood | {name} | {beside:.1f} ms "
                f"| {beside / alone:.2f} of {alone:.1f} ms alone | 2 |"
            )
    lines += ["", f"{versions()}."]
    print("\n".join(lines))
    if options.write is not None:
        page = options.write.read_text(encoding="utf-8")
        before, _, rest = page.partition("<!-- table -->\n")
        after = rest.partition("<!-- end of the table -->")[2]
        whole = "\n".join(lines)
        options.write.write_text(
            f"{before}<!-- table -->\n{whole}\n<!-- end of the table -->{after}", encoding="utf-8"
        )


if __name__ == "__main__":
    main()
