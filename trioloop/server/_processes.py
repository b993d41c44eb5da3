"""Several workers: one process that starts them, and what it does when they or it shall end.

The laws of this file:

* A worker ends for its own reasons only: none is ended because another one has.
* A worker drains when its pipe to the supervisor closes, by whatever closes it: a signal to the
  supervisor, its end, its crash. So a signal to the whole process group, which systemd and a
  terminal send, meets each process once and means the same to all.
* The first SIGINT or SIGTERM drains, the second ends. SIGHUP drains every worker and starts another
  in its place.
* A worker that fails before it serves ends all, with its exit code; one that fails later is
  replaced, unless that happens too often.
"""

from __future__ import annotations

import os
import signal
import socket
import sys
import time
from collections.abc import Callable, Generator, Sequence
from contextlib import contextmanager, suppress
from multiprocessing import get_context, resource_tracker
from multiprocessing.connection import Connection, wait
from multiprocessing.process import BaseProcess
from typing import Any, Final

SERVING: Final = "serving"
"""What a worker says through its pipe once it serves."""

MAX_FAILURES: Final = 5
"""Failures of each place within `FAILURE_SECONDS` after which no worker is started any more."""
FAILURE_SECONDS: Final = 60.0


class Supervisor:
    """Starts workers, and replaces those that end.

    Args:
        work: what a worker runs, with the arguments and its end of a pipe. Importable by name.
        arguments: what can be pickled.
        number: how many run.
        patience: seconds after the beginning of the drain at which workers are killed.
    """

    def __init__(
        self, work: Callable[..., object], arguments: Sequence[Any], number: int, patience: float
    ) -> None:
        self._work = work
        self._arguments = tuple(arguments)
        self._number = number
        self._patience = patience
        self._context = get_context("spawn")
        self._workers: dict[BaseProcess, Connection] = {}
        self._serving: set[BaseProcess] = set()
        self._failures: list[float] = []
        self._signals: list[int] = []
        self._reloads = False
        self._code = 0
        self._give_up_at = float("inf")

    def run(self) -> int:
        """Run until all workers have ended.

        Returns:
            The exit code: 0 after a drain, that of the first worker that failed otherwise; 128 and
            its number for a second signal.
        """
        with self._handled_signals() as woken:
            try:
                while not self._signals and not self._code and len(self._workers) < self._number:
                    self._start()
                while self._workers:
                    self._wait(woken)
                    if len(self._signals) > 1:
                        self._kill()
                        return 128 + self._signals[1]
                    if time.monotonic() >= self._give_up_at:
                        self._kill()
                        return self._code or 1
                return self._code
            finally:
                self._kill()

    # -- workers ---------------------------------------------------------------------------------

    def _start(self) -> None:
        ours, theirs = self._context.Pipe()
        process = self._context.Process(target=self._work, args=(*self._arguments, theirs))
        with _kept_from_what_starts():
            process.start()
        theirs.close()
        self._workers[process] = ours

    def _wait(self, woken: socket.socket) -> None:
        timeout = None
        if self._give_up_at != float("inf"):
            timeout = max(0.0, self._give_up_at - time.monotonic())
        pipes = {pipe: process for process, pipe in self._workers.items() if not pipe.closed}
        ends = {process.sentinel: process for process in self._workers}
        for ready in wait([*pipes, *ends, woken], timeout):
            if ready is woken:
                with suppress(BlockingIOError):
                    woken.recv(4096)
            elif isinstance(ready, Connection):
                self._hear(pipes[ready], ready)
        for process in list(self._workers):
            if process.exitcode is not None:
                self._ended(process)
        if self._signals:
            self._drain()
        if self._reloads:
            self._reloads = False
            self._close_pipes()

    def _hear(self, process: BaseProcess, pipe: Connection) -> None:
        try:
            if pipe.recv() == SERVING:
                self._serving.add(process)
        except (EOFError, OSError):
            pipe.close()  # it ends

    def _ended(self, process: BaseProcess) -> None:
        self._workers.pop(process).close()
        served = process in self._serving
        self._serving.discard(process)
        code = process.exitcode or 0
        if code < 0:
            code = 128 - code  # a signal, as a shell reports it
        if self._give_up_at != float("inf"):
            self._code = self._code or code
        elif code and (not served or self._fails_too_often()):
            self._code = code
            self._drain()
        else:
            if code:
                sys.stderr.write(
                    f"trioloop: worker {process.pid} failed ({code}); starting another\n"
                )
            self._start()

    def _fails_too_often(self) -> bool:
        now = time.monotonic()
        self._failures = [when for when in self._failures if when > now - FAILURE_SECONDS]
        self._failures.append(now)
        return len(self._failures) > MAX_FAILURES * self._number

    def _drain(self) -> None:
        if self._give_up_at == float("inf"):
            self._give_up_at = time.monotonic() + self._patience
            self._close_pipes()

    def _close_pipes(self) -> None:
        for pipe in self._workers.values():
            pipe.close()

    def _kill(self) -> None:
        for process in self._workers:
            process.kill()
        for process in self._workers:
            process.join()
        self._workers.clear()

    # -- signals ---------------------------------------------------------------------------------

    @contextmanager
    def _handled_signals(self) -> Generator[socket.socket, None, None]:
        woken, wake = socket.socketpair()
        woken.setblocking(False)
        wake.setblocking(False)
        numbers = [*_STOPPING, *_RELOADING]
        previous = {number: signal.signal(number, self._handle) for number in numbers}
        before = signal.set_wakeup_fd(wake.fileno(), warn_on_full_buffer=False)
        try:
            yield woken
        finally:
            signal.set_wakeup_fd(before)
            for number, handler in previous.items():
                signal.signal(number, handler)
            woken.close()
            wake.close()

    def _handle(self, number: int, _frame: object) -> None:
        if number in _RELOADING:
            self._reloads = True
            return
        self._signals.append(number)
        if len(self._signals) == 1:
            with suppress(OSError):
                os.write(2, b"trioloop: draining all workers; again to stop at once\n")


@contextmanager
def _kept_from_what_starts() -> Generator[None, None, None]:
    """Have a process that is started inside ignore the signals to stop, and hear them ourselves after it.

    A signal for the group meets a worker before it can handle it, if it comes now: ignored until then
    (an ignored signal stays so in a new process), it is heard through the pipe. Here it is blocked
    meanwhile, for what comes to a blocked signal waits, even while it is ignored.
    """
    resource_tracker.ensure_running()  # to start it would unblock them
    mask = signal.pthread_sigmask(signal.SIG_BLOCK, _STOPPING)
    previous = [signal.signal(number, signal.SIG_IGN) for number in _STOPPING]
    try:
        yield
    finally:
        for number, handler in zip(_STOPPING, previous, strict=True):
            signal.signal(number, handler)
        signal.pthread_sigmask(signal.SIG_SETMASK, mask)


def let_signals_in() -> None:
    """Hear the signals to stop again, in a process that was started by a `Supervisor`.

    What came before is forgotten: the supervisor has closed its pipe.
    """
    signal.pthread_sigmask(signal.SIG_UNBLOCK, _STOPPING)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    signal.signal(signal.SIGINT, signal.default_int_handler)


_STOPPING: Final = (signal.SIGINT, signal.SIGTERM)
_RELOADING: Final = tuple(getattr(signal, name) for name in ("SIGHUP",) if hasattr(signal, name))
