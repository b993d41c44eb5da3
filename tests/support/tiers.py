"""The tiers on which a scenario is played.

* `T0`: the kit's fake.
* `T1`: Hypercorn's own connection class and HTTP/1.1 protocol over a socket in memory.
* `T2`: Hypercorn's own worker, listening on 127.0.0.1, and real sockets.
* `T3`: the same with the worker of ``trioloop serve``; `T0Told` is the fake that tells of its
  shutdown, as that one does.

Laws of this file:

* All are the same stepped run on virtual time. T1, T2 and T3 replace what is below the
  application, and the client; never the driver.
* Their clients write raw bytes and read with h11. Nothing of the fake is in them but `Seen`.
* Nothing sleeps for a fixed time. Over TCP the run is settled when neither end has had anything to
  do in several looks, and the kernel has nothing of the clients' left to deliver.
"""

from __future__ import annotations

import fcntl
import math
import select
import socket
import struct
import termios
from collections.abc import Awaitable, Callable, Mapping
from contextlib import suppress
from typing import Any, Final, Self, TypeVar

import h11
import trio
from hypercorn.app_wrappers import ASGIWrapper
from hypercorn.config import Config, Sockets
from hypercorn.trio.run import worker_serve
from hypercorn.trio.tcp_server import TCPServer
from hypercorn.trio.worker_context import WorkerContext
from hypercorn.typing import ConnectionState

from trioloop._serve import serve_telling
from trioloop.testing import Seen, Simulation
from trioloop.testing._trio_internals import GuestRun
from trioloop.testing._world import Worker

from .normal import Account, account
from .scenarios import Application, Scenario, play

T = TypeVar("T")

LARGE: Final = 2**24
KERNELS_BUFFER: Final = 65536
"""What the socket of a client that has vanished still takes, in the fake and here."""


# -- a client that is real from its bytes on ------------------------------------------------------


class WireExchange:
    """A client's side of one request on a connection of its own, with the kit's verbs.

    Attributes:
        transcript: what the client has seen.
        wanted: bytes that a client who has stopped reading still asks for.
    """

    def __init__(self, simulation: WireSimulation, method: str, target: str, body: bytes | None):
        self.transcript: list[Seen] = []
        self._simulation = simulation
        self._parser = h11.Connection(h11.CLIENT, max_incomplete_event_size=LARGE)
        self._parser.send(h11.Request(method=method, target=target, headers=[("host", "test")]))
        self._parser.send(h11.EndOfMessage())
        self._reading = True
        self.wanted = 0
        self._over = False
        self._request = _request_bytes(method, target, body)

    # -- what a transport does ----------------------------------------------------------------

    def transmit(self, data: bytes) -> None:
        """Bytes leave the client."""
        raise NotImplementedError  # each subclass has its own

    def receive(self, size: int) -> bytes | None:
        """What has come, at most so much; ``b""`` at the end, `None` when there is nothing now."""
        raise NotImplementedError  # each subclass has its own

    def set_window(self, window: float | None) -> None:
        """Let the server's socket take so many bytes that the client has not read.

        Args:
            window: `None` for what it was; the client may want other bytes now.
        """

    def leave(self, how: str) -> None:
        """Close, reset or half-close."""
        raise NotImplementedError  # each subclass has its own

    # -- the verbs ----------------------------------------------------------------------------

    def connect(self) -> None:
        self.transmit(self._request)

    def send(self, data: bytes, *, more: bool) -> None:
        if data:
            self.transmit(b"%x\r\n%b\r\n" % (len(data), data))
        if not more:
            self.transmit(b"0\r\n\r\n")
        self._simulation.settle()

    def stall(self, window: int) -> None:
        self._reading, self.wanted = False, 0
        self.set_window(window)
        self._simulation.settle()

    def read(self, size: int) -> None:
        self.wanted += size
        self.pull()
        self.set_window(None)
        self._simulation.settle()

    def resume(self) -> None:
        self._reading = True
        self.pull()
        self.set_window(math.inf)
        self._simulation.settle()

    def disconnect(self, how: str) -> None:
        if how == "vanish":
            self._reading, self.wanted = False, 0
            self.set_window(KERNELS_BUFFER)
        else:
            if how != "half":
                self._reading, self._over = False, True
            self.leave(how)
        self._simulation.settle()

    # -- reading ------------------------------------------------------------------------------

    def pull(self) -> bool:
        """Read what may be read; whether there was anything."""
        found = False
        while not self._over and (self._reading or self.wanted):
            data = self.receive(LARGE if self._reading else self.wanted)
            if data is None:
                break
            found = True
            if not self._reading:
                self.wanted -= len(data)
            self._parse(data)
        return found

    def _parse(self, data: bytes) -> None:
        self._parser.receive_data(data)
        while not self._over:
            try:
                event = self._parser.next_event()
            except h11.RemoteProtocolError:
                self._end("cut")
                return
            if isinstance(event, h11.Response):
                self._see("head", (event.status_code, list(event.headers)))
            elif isinstance(event, h11.Data):
                self._see("body", bytes(event.data))
            elif isinstance(event, h11.EndOfMessage):
                self._end("end")
            elif isinstance(event, h11.ConnectionClosed):
                self._end("cut")
            else:
                return

    def _end(self, how: str) -> None:
        self._see("eof", how)
        self._over = True

    def _see(self, what: str, value: Any) -> None:
        self.transcript.append(Seen(self._simulation.now(), what, value))


def _request_bytes(method: str, target: str, body: bytes | None) -> bytes:
    lines = [f"{method} {target} HTTP/1.1", "host: test"]
    if body is None:
        lines.append("transfer-encoding: chunked")
    elif body:
        lines.append(f"content-length: {len(body)}")
    return "\r\n".join([*lines, "", ""]).encode() + (body or b"")


class WireSimulation(Simulation):
    """A simulation whose requests go to a real server."""

    def __init__(self, app: Application) -> None:
        super().__init__(app, notice=False, worker="stock")
        self.app = app
        self.exchanges: list[Any] = []
        self.config = Config()
        self.config.errorlog = self.config.accesslog = None
        self.faults: list[BaseException] = []
        self._down = trio.Event()

    def request(
        self,
        method: str,
        target: str,
        *,
        headers: Mapping[str, str] | None = None,
        body: Any = b"",
        json: Any = None,
    ) -> Any:
        exchange = self.connect(method, target, body)
        self.exchanges.append(exchange)
        exchange.connect()
        self.settle()
        return exchange

    def connect(self, method: str, target: str, body: bytes | None) -> WireExchange:
        raise NotImplementedError  # each subclass has its own

    def shut_down(self, grace: float = 3.0) -> None:
        self.config.graceful_timeout = grace
        self._down.set()
        self._use_up_time()
        self._raise_if_over()

    def release(self) -> None:
        """Let go of all clients, so that nothing can be stuck."""
        for exchange in self.exchanges:
            exchange.leave("abrupt")

    def _end_run(self) -> None:
        self._down.set()
        self.release()
        self._use_up_time()
        if self._outcome is None:
            self._nursery.cancel_scope.cancel()
            self._use_up_time()


# -- T1 -------------------------------------------------------------------------------------------


class MemorySocket(trio.abc.HalfCloseableStream):
    """The server's end of a TCP connection, as ``trio.SocketStream`` behaves on Linux.

    Attributes:
        window: bytes that it takes before a write waits for the client to read.
        wanted: how many bytes the client asks for, whatever the window is.
        outgoing: what the client has not read.
        incoming: what the server has not read.
        ended: the server has said that no more comes.
        client_ended: the client has.
        client_gone: the client has closed: the first write is answered by a reset.
        reset: the client has sent a reset.
    """

    family = socket.AF_INET

    def __init__(self) -> None:
        self.window: float = math.inf
        self.outgoing = bytearray()
        self.incoming = bytearray()
        self.ended = self.client_ended = self.client_gone = self.reset = False
        self.wanted: Callable[[], int] = lambda: 0
        self.wrote: Callable[[], object] = lambda: None
        self._closed = self._sending = False
        self._readable = trio.Event()
        self._writable = trio.Event()

    @property
    def socket(self) -> MemorySocket:
        return self  # it is all that Hypercorn asks of it

    def getpeername(self) -> tuple[str, int]:
        return ("127.0.0.1", 50000)

    def getsockname(self) -> tuple[str, int]:
        return ("127.0.0.1", 8000)

    def change(self) -> None:
        """Everything may be different: let everybody who waits look again."""
        self.change_incoming()
        self.change_outgoing()

    def change_incoming(self) -> None:
        """There may be something to read; a kernel wakes nobody else for it."""
        self._readable.set()
        self._readable = trio.Event()

    def change_outgoing(self) -> None:
        """There may be room to write."""
        self._writable.set()
        self._writable = trio.Event()

    async def send_all(self, data: Any) -> None:
        if self.ended or self._closed:
            raise trio.ClosedResourceError
        if self._sending:
            raise trio.BusyResourceError
        self._sending = True
        try:
            rest = memoryview(bytes(data))
            if not rest:
                await trio.lowlevel.checkpoint()
            while rest:
                rest = rest[await self._when_possible(self._wait_writable, self._take, rest) :]
        finally:
            self._sending = False

    async def _wait_readable(self) -> None:
        await self._readable.wait()

    async def _wait_writable(self) -> None:
        await self._writable.wait()

    async def _when_possible(
        self, wait: Callable[[], Awaitable[None]], function: Callable[..., T | None], *args: Any
    ) -> T:
        """Try until there is a result: a checkpoint in any case, and never after a wait."""
        await trio.lowlevel.checkpoint_if_cancelled()
        result = function(*args)
        if result is not None:
            await trio.lowlevel.cancel_shielded_checkpoint()
        while result is None:
            await wait()
            result = function(*args)
        return result

    def _take(self, data: memoryview) -> int | None:
        self._check()
        if self.client_gone:
            self.reset = True
            self.change()
            return len(data)
        room = self.window + self.wanted() - len(self.outgoing)
        if room <= 0:
            return None
        size = int(min(room, len(data)))
        self.outgoing += data[:size]
        self.wrote()
        return size

    def _give(self, max_bytes: int | None) -> bytes | None:
        data = bytes(self.incoming[:max_bytes])
        del self.incoming[:max_bytes]
        if not data:
            self._check()
        return data if data or self.client_ended else None

    def _check(self) -> None:
        if self._closed:
            raise trio.ClosedResourceError
        if self.reset:
            raise trio.BrokenResourceError

    async def wait_send_all_might_not_block(self) -> None:
        raise NotImplementedError  # Hypercorn never asks; trio's SendStream must have it

    async def receive_some(self, max_bytes: int | None = None) -> bytes:
        return await self._when_possible(self._wait_readable, self._give, max_bytes)

    async def send_eof(self) -> None:
        if self._sending:
            raise trio.BusyResourceError
        await trio.lowlevel.checkpoint()
        if self._closed:
            raise trio.ClosedResourceError
        if self.reset and not self.ended:
            raise trio.BrokenResourceError
        self.ended = True
        self.wrote()

    async def aclose(self) -> None:
        self._closed = self.ended = True
        self.incoming.clear()
        self.change()
        self.wrote()
        await trio.lowlevel.checkpoint()


class MemoryExchange(WireExchange):
    """A client in memory."""

    _left = False

    def __init__(self, simulation: WireSimulation, method: str, target: str, body: bytes | None):
        super().__init__(simulation, method, target, body)
        self.socket = MemorySocket()
        self.socket.wrote = self.pull
        self.socket.wanted = lambda: self.wanted

    def transmit(self, data: bytes) -> None:
        self.socket.incoming += data
        self.socket.change_incoming()

    def receive(self, size: int) -> bytes | None:
        data = bytes(self.socket.outgoing[:size])
        if not data:
            return b"" if self.socket.ended else None
        del self.socket.outgoing[:size]
        self.socket.change_outgoing()
        return data

    def set_window(self, window: float | None) -> None:
        if window is not None:
            kept = self.socket.window
            self.socket.window = min(kept, window) if window == KERNELS_BUFFER else window
        self.socket.change_outgoing()

    def leave(self, how: str) -> None:
        if how == "half":
            self.socket.client_ended = True
            self.socket.change_incoming()
            return
        if how == "abrupt" or self.socket.outgoing:  # a kernel resets where data is not read
            self.socket.reset = True
            self.socket.outgoing.clear()
        else:
            self.socket.client_ended = self.socket.client_gone = True
        self.socket.change()


class T1(WireSimulation):
    """Real Hypercorn code in memory.

    What ``worker_serve`` does around a connection is done here with its own words: a nursery for
    the connections which gets a deadline at the shutdown, and the lifespan's end after that.
    """

    def __init__(self, app: Application) -> None:
        super().__init__(app)
        self._context = WorkerContext(None)

    async def _main(self) -> None:
        async with trio.open_nursery() as self._nursery:
            self._nursery.start_soon(self._world.run_lifespan, name="lifespan")
            self._nursery.start_soon(self._work, name="worker")
            await trio.sleep_forever()

    async def _work(self) -> None:
        async with trio.open_nursery() as self._connections:
            await self._down.wait()
            await self._context.terminated.set()
            deadline = trio.current_time() + self.config.graceful_timeout
            self._connections.cancel_scope.deadline = deadline
        self._world.stop()

    def connect(self, method: str, target: str, body: bytes | None) -> WireExchange:
        exchange = MemoryExchange(self, method, target, body)
        self._connections.start_soon(self._serve, exchange.socket, name="connection")
        return exchange

    async def _serve(self, stream: Any) -> None:
        app: Any = ASGIWrapper(self.app)
        server = TCPServer(app, self.config, self._context, ConnectionState({}), stream)
        try:
            await server.run()
        except BaseExceptionGroup as group:
            # The call returned while the head was being written. Hypercorn's state is still REQUEST
            # then, so it begins to write a 500; h11 knows better and raises LocalProtocolError out
            # of the connection's nursery. In a real worker this ends the process. Here it ends the
            # connection, as it would in the moment before.
            fault, rest = group.split(h11.LocalProtocolError)
            if fault is not None:
                self.faults.append(fault)
            if rest is not None:
                raise rest from None
        finally:
            await trio.aclose_forcefully(stream)  # as trio.serve_listeners does


# -- T2 -------------------------------------------------------------------------------------------

LOOKS: Final = 3
MOST_LOOKS: Final = 100
"""Nothing that can be delivered takes longer on the loopback device."""
TCP_CLOSE: Final = b"\x07"
"""The first byte of ``struct tcp_info`` for a connection that is no more (Linux's ``tcp_states.h``)."""
PAUSE: Final = 0.0003
"""Real seconds for which a look waits for a byte from the server."""


class SocketExchange(WireExchange):
    """A client on a real socket."""

    def __init__(
        self,
        simulation: WireSimulation,
        method: str,
        target: str,
        body: bytes | None,
        address: tuple[str, int],
    ):
        super().__init__(simulation, method, target, body)
        self.socket = socket.create_connection(address)
        self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)  # nobody waits for Nagle
        self.socket.setblocking(False)

    def transmit(self, data: bytes) -> None:
        with suppress(ConnectionError):
            sent = self.socket.send(data)
            assert sent == len(data)

    def receive(self, size: int) -> bytes | None:
        try:
            return self.socket.recv(min(size, 65536))
        except BlockingIOError:
            return None
        except ConnectionError:
            return b""

    def leave(self, how: str) -> None:
        if self.socket.fileno() == -1:
            return
        if how == "half":
            with suppress(OSError):
                self.socket.shutdown(socket.SHUT_WR)
            return
        if how == "abrupt":
            linger = struct.pack("ii", 1, 0)
            self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
        self.socket.close()

    def undelivered(self) -> int:
        """Bytes that the server's kernel has not acknowledged, and still may."""
        if self.socket.fileno() == -1:
            return 0
        if self.socket.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, 1) == TCP_CLOSE:
            return 0  # it was reset: to wait for the rest would cost every step all of its looks
        answer = fcntl.ioctl(self.socket, termios.TIOCOUTQ, b"\0" * 4)
        size: int = struct.unpack("i", answer)[0]
        return size

    def awaited(self) -> bool:
        """Whether a byte from the server would be read now."""
        return self.socket.fileno() != -1 and self._reading and not self._over


class LookingRun(GuestRun):
    """A guest run that looks at real I/O in every step, for here there is some."""

    def take(self, step: Callable[[], object]) -> None:
        self._next = step


class T2(WireSimulation):
    """The stock worker over TCP."""

    _listener: socket.socket

    async def _main(self) -> None:
        async with trio.open_nursery() as self._nursery:
            self._nursery.start_soon(self._work, name="worker")
            await trio.sleep_forever()

    async def _work(self) -> None:
        sockets = Sockets([], [self._listener], [])
        trigger: Callable[[], Awaitable[None]] = self._down.wait
        app: Any = ASGIWrapper(self.app)
        await worker_serve(app, self.config, sockets=sockets, shutdown_trigger=trigger)

    def _start_up(self) -> None:
        self.settle()
        assert self.app.hub.running

    def __enter__(self) -> Self:
        self._listener = socket.socket()
        self._listener.bind(("127.0.0.1", 0))
        self._listener.listen(5)
        self._address = self._listener.getsockname()
        self._run = LookingRun()
        super().__enter__()
        return self

    def close(self) -> None:
        try:
            super().close()
        finally:
            self.release()
            self._listener.close()

    def connect(self, method: str, target: str, body: bytes | None) -> WireExchange:
        return SocketExchange(self, method, target, body, self._address)

    def _settle(self) -> None:
        super()._settle()
        while self._look_at_sockets():
            super()._settle()

    def _look_at_sockets(self) -> bool:
        """Whether the sockets have given anybody something to do."""
        for look in range(MOST_LOOKS):
            if self._outcome is not None:
                return False
            read = [exchange.pull() for exchange in self.exchanges]
            for _ in range(2):
                self._run.look()
                if self._outcome is not None:
                    return False
            if any(read) or trio.lowlevel.current_statistics().tasks_runnable:
                return True
            if look >= LOOKS and not any(one.undelivered() for one in self.exchanges):
                return False
            waiting = [exchange.socket for exchange in self.exchanges if exchange.awaited()]
            select.select(waiting, [], [], PAUSE)
        return False


# -- T3 -------------------------------------------------------------------------------------------


class T3(T2):
    """The worker of ``trioloop serve`` over TCP."""

    async def _work(self) -> None:
        sockets = Sockets([], [self._listener], [])
        await serve_telling(self.app, self.config, self._down.wait, sockets=sockets)


# -- running --------------------------------------------------------------------------------------


class T0(Simulation):
    """The kit's model of the stock worker."""

    worker: Worker = "stock"

    def __init__(self, app: Application) -> None:
        super().__init__(app, notice=self.worker != "stock", worker=self.worker)
        self.faults: list[BaseException] = []

    @property
    def exchanges(self) -> list[Any]:
        """The clients, in the order of their requests."""
        return list(self._world.exchanges)


class T0Own(T0):
    """The connections of ``trioloop serve``, as the kit runs them in memory."""

    worker = "trioloop"


def tell(tier: type[T0 | T1 | T2], scenario: Scenario) -> tuple[Account, ...]:
    """Play a scenario on a tier; what came of it, normalised."""
    app = Application()
    with tier(app) as simulation:
        play(scenario, simulation, app)
        return account(simulation.exchanges, app)
