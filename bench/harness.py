"""Server processes, clients that read along, and tables.

The process that runs a script is the load client, on a core of its own where there are two.
"""

from __future__ import annotations

import contextlib
import json
import os
import resource
import select
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Final, Self

HERE: Final = Path(__file__).parent
PATIENCE: Final = 120.0
"""Seconds after which a server that does not answer is given up."""


class Server:
    """A server process.

    Args:
        service: a name in `applications.SERVICES`.
        counting: whether it has to know what is written, for ``publish``.
        tracing: whether tracemalloc runs in it.
    """

    def __init__(self, service: str, *, counting: bool = False, tracing: bool = False) -> None:
        path = os.pathsep.join(filter(None, [str(HERE.parent), os.environ.get("PYTHONPATH")]))
        environment = {**os.environ, "PYTHONPATH": path}
        if tracing:
            environment["PYTHONTRACEMALLOC"] = "1"
        with socket.socket() as listener:
            listener.bind(("127.0.0.1", 0))
            listener.listen()  # connections wait here until the process is up
            self.address: tuple[str, int] = listener.getsockname()
            fd = listener.fileno()
            command = [sys.executable, str(HERE / "server.py"), service, str(fd)]
            command += ["--cpu", str(cores()[0])]
            command += ["--counting"] if counting else []
            self._process = subprocess.Popen(command, pass_fds=[fd], env=environment)  # noqa: S603 - ourselves

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        cls: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._process.kill()
        self._process.wait()

    @property
    def pid(self) -> int:
        """The process."""
        return self._process.pid

    def connect(self) -> socket.socket:
        """Open a connection."""
        return socket.create_connection(self.address, timeout=PATIENCE)

    def ask(self, what: str, streams: Streams | None = None) -> Any:
        """Ask at the door of `server`, while the streams are read."""
        with self.connect() as connection:
            connection.sendall(request(f"/bench/{what}"))
            answer = b""
            while not complete(answer):
                if streams is not None:
                    streams.read_until_readable(connection)
                data = connection.recv(65536)
                if not data:
                    raise ConnectionError(f"the server hung up instead of answering {what}")
                answer += data
        return json.loads(answer.partition(b"\r\n\r\n")[2])

    def cpu_seconds(self) -> float:
        """What the server process has used so far."""
        seconds: float = self.ask("cpu")
        return seconds

    def private_kilobytes(self) -> int:
        """The server's memory that it shares with nobody."""
        rollup = Path(f"/proc/{self.pid}/smaps_rollup").read_text(encoding="ascii")
        fields = (line.split() for line in rollup.splitlines()[1:])
        return sum(int(field[1]) for field in fields if field[0].startswith("Private_"))


class Streams:
    """Clients of event streams, which read and count what comes.

    Args:
        server: where to.
        path: the path to request.
        number: how many.
    """

    def __init__(self, server: Server, path: str, number: int) -> None:
        self._server = server
        self._path = path
        self._connections: dict[int, socket.socket] = {}
        self._poll = select.epoll()
        self.received = 0
        while len(self._connections) < number:
            self._open(min(100, number - len(self._connections)))

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        cls: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._poll.close()
        for connection in self._connections.values():
            connection.close()

    def _open(self, number: int) -> None:
        fresh = []
        for _ in range(number):
            fresh.append(connection := self._server.connect())
            connection.sendall(request(self._path))
        for connection in fresh:
            head = b""
            while b"\r\n\r\n" not in head:
                head += (data := connection.recv(65536))
                if not data:
                    raise ConnectionError(f"the server hung up: {head!r}")
            if not head.startswith(b"HTTP/1.1 200"):
                raise ConnectionError(f"no stream: {head!r}")
            connection.setblocking(False)
            self._connections[connection.fileno()] = connection
            self._poll.register(connection, select.EPOLLIN)

    def read_until_readable(self, other: socket.socket) -> None:
        """Read what comes, until another socket can be read."""
        self._poll.register(other, select.EPOLLIN)
        try:
            while ready := self._poll.poll(PATIENCE):
                fds = [fd for fd, _ in ready]
                self._read(fds)
                if other.fileno() in fds:
                    return
            raise TimeoutError("the server has stopped")
        finally:
            self._poll.unregister(other)

    def read_until_received(self, number: int) -> None:
        """Read until so many bytes have come."""
        while self.received < number:
            ready = self._poll.poll(PATIENCE)
            if not ready:
                raise TimeoutError(f"{number} bytes were written, {self.received} have come")
            self._read([fd for fd, _ in ready])

    def _read(self, fds: Sequence[int]) -> None:
        for fd in fds:
            if fd in self._connections:
                with contextlib.suppress(BlockingIOError):
                    data = self._connections[fd].recv(65536)
                    if not data:
                        raise ConnectionError("the server ended a stream")
                    self.received += len(data)


def request(path: str) -> bytes:
    """A GET request."""
    return f"GET {path} HTTP/1.1\r\nhost: localhost\r\n\r\n".encode()


def complete(response: bytes) -> bool:
    """Whether a response with a content-length is all there."""
    head, found, body = response.partition(b"\r\n\r\n")
    if not found:
        return False
    for line in head.lower().split(b"\r\n"):
        name, _, value = line.partition(b":")
        if name == b"content-length":
            return len(body) >= int(value)
    raise ConnectionError(f"no content-length: {head!r}")


def cores() -> tuple[int, int]:
    """The server's core and the client's; the same one where there is only one."""
    known = sorted(ALLOWED)
    return known[0], known[-1]


ALLOWED: Final = os.sched_getaffinity(0)


@contextlib.contextmanager
def as_client(descriptors: int = 0) -> Iterator[None]:
    """Make this process the load client: on its own core, with room for so many connections.

    Raises:
        OSError: the system allows fewer open files.
    """
    limits = resource.getrlimit(resource.RLIMIT_NOFILE)
    needed = descriptors + 100
    if limits[0] != resource.RLIM_INFINITY and limits[0] < needed:
        if limits[1] != resource.RLIM_INFINITY and limits[1] < needed:
            raise OSError(f"{needed} open files are needed and {limits[1]} allowed (ulimit -Hn)")
        resource.setrlimit(resource.RLIMIT_NOFILE, (needed, limits[1]))  # servers inherit it
    os.sched_setaffinity(0, {cores()[1]})
    try:
        yield
    finally:
        os.sched_setaffinity(0, ALLOWED)
        resource.setrlimit(resource.RLIMIT_NOFILE, limits)


def settle(server: Server, seconds: float) -> int:
    """Let the server come to rest; returns its private kilobytes."""
    time.sleep(seconds)  # what a server frees late has no event to wait for
    server.ask("settle")
    return server.private_kilobytes()


def print_table(head: Sequence[str], rows: Sequence[Sequence[object]]) -> None:
    """Print a table: the first column is text, the others are numbers."""
    cells = [list(head), *([show(cell) for cell in row] for row in rows)]
    widths = [max(len(row[column]) for row in cells) for column in range(len(head))]
    for row in cells:
        first, *rest = zip(row, widths, strict=True)
        print(first[0].ljust(first[1]), *(text.rjust(width) for text, width in rest), sep="  ")


def show(cell: object) -> str:
    """A cell as text."""
    return f"{cell:.2f}" if isinstance(cell, float) else str(cell)
