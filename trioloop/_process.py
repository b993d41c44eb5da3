"""The process that serves: what ``trioloop serve`` does from its start to its exit code.

The laws of this file:

* The first SIGINT or SIGTERM drains, the second ends the process there and then, whatever runs.
* What an operator can mend ends the process with one line on stderr and exit code 1.

Where one process is not enough (several workers, ``max_requests``), each worker is a process that
does all this by itself, under the supervisor of ``server/_processes.py``. Only reloading is
Hypercorn's own, with its stock worker and without a notice.
"""

from __future__ import annotations

import gc
import math
import os
import re
import signal
import sys
from contextlib import contextmanager, suppress
from functools import partial
from pickle import PicklingError
from typing import TYPE_CHECKING, Final

import hypercorn.run
import trio
from hypercorn.utils import LifespanFailureError, LifespanTimeoutError

from ._serve import exit_in, leaves, serve_telling
from ._startup import (
    BIND_ERRORS,
    CannotServeError,
    check_settings,
    check_tls,
    importable,
    listening,
    loaded,
    open_logs,
    pid_file,
)
from .server._processes import SERVING, Supervisor, let_signals_in

if TYPE_CHECKING:
    from collections.abc import Callable, Generator, Sequence
    from multiprocessing.connection import Connection
    from types import FrameType

    from hypercorn.config import Config, Sockets

    from ._serve import Application

COLLECTOR_THRESHOLDS: Final = (5_000, 20, 100)
"""For `gc.set_threshold`, once `run` serves. An application can set its own in its lifespan's
first request, or anywhere later."""


def run(
    application: str | Application,
    config: Config,
    *,
    on_listening: Callable[[Sequence[str]], object] | None = None,
) -> int:
    """Serve until a signal ends it, as the whole of this process: what ``trioloop serve`` does.

    One worker serves in this process, which must call from its main thread: the first SIGINT or
    SIGTERM starts the drain, the second ends the process at once. Several workers, and one with
    ``config.max_requests``, are processes of their own, which this one supervises. Reloading is
    handed to ``hypercorn.run.run``, which gives no notice. The garbage collector of a process that
    serves is told to come less often, see `COLLECTOR_THRESHOLDS`.

    Args:
        application: An ASGI application, or where to import it from: ``"module:attribute"``, or
            one of Hypercorn's other forms (``"module"`` for its ``app``, ``"file.py:attribute"``,
            ``"module:factory()"``).
        config: Hypercorn's configuration. Its ``worker_class`` is not looked at.
        on_listening: Called with the addresses once this process listens on them; never called
            where other processes serve.

    Returns:
        The exit code: 0 after a drain; 1 when it could not serve, with the reason on stderr; 130
        (SIGINT) or 143 (SIGTERM) when a signal ended it before it listened. A second signal ends
        the process with that code, so this function does not return then.

    Source: ``hypercorn.run.run``, which gives the exit code of a process too.
    """
    try:
        check_settings(config)
        check_tls(config)
        app = loaded(application) if isinstance(application, str) else application
        if config.use_reloader:
            return _run_reloading(application, config)
        if config.workers > 1 or config.max_requests is not None:
            return _run_workers(application, config)
        with listening(config) as sockets, pid_file(config.pid_path):
            return _run_here(app, config, sockets, on_listening)
    except CannotServeError as error:
        return error.report(verbose=str(config.loglevel).upper() == "DEBUG")
    except KeyboardInterrupt:  # before our own handlers were in place
        return 128 + signal.SIGINT


def _run_here(
    app: Application,
    config: Config,
    sockets: Sockets,
    on_listening: Callable[[Sequence[str]], object] | None,
    supervisor: Connection | None = None,
) -> int:
    signals = _Signals(config.graceful_timeout, supervisor)
    with signals.handled():
        try:
            return trio.run(_serve_until_signal, app, config, sockets, signals, on_listening)
        except BaseExceptionGroup as group:
            reason = _reason_to_stop(group, config, serving=signals.serving)
            if reason is None:
                raise
            raise reason from None


async def _serve_until_signal(
    app: Application,
    config: Config,
    sockets: Sockets,
    signals: _Signals,
    on_listening: Callable[[Sequence[str]], object] | None,
) -> int:
    open_logs(config)
    worker = partial(serve_telling, app, config, signals.wait, sockets=sockets)
    async with trio.open_nursery() as server:
        binds: list[str] | None = None
        # Hypercorn awaits the trigger only once it listens: a startup that hangs would not hear it.
        async with trio.open_nursery() as starting:
            starting.start_soon(signals.cancel, starting.cancel_scope)
            binds = await server.start(worker)
            # Here and not below: that is some turns later, and the first request may end the process.
            signals.serving = True
            if on_listening is not None:
                on_listening(binds or [])
            starting.cancel_scope.cancel()
        if binds is None:
            # None: the supervisor has closed the pipe, which is no failure of this worker.
            return 0 if signals.received is None else 128 + signals.received
        _calm_collector()
    return 0


def _calm_collector() -> None:
    """Let the garbage collector leave alone what the start has made, and come less often.

    With a thousand streams it would take a third of the time otherwise, and finds nothing: what a
    connection leaves is freed by counting references.
    """
    gc.collect()
    gc.freeze()
    gc.set_threshold(*COLLECTOR_THRESHOLDS)


class _Signals:
    """What SIGINT and SIGTERM do to this process: the first asks it to stop, the second stops it.

    Plain signal handlers, not `trio.open_signal_receiver`: that one is heard only while the event
    loop turns, and the second signal must also work when a callback blocks it.
    """

    def __init__(self, grace: float, supervisor: Connection | None = None) -> None:
        self.received: int | None = None
        self.serving = False
        self._grace = grace
        self._supervisor = supervisor
        self._token: trio.lowlevel.TrioToken | None = None
        self._asked = trio.Event()

    @contextmanager
    def handled(self) -> Generator[None, None, None]:
        """Handle the signals inside, and for ever once one has come.

        A process that was told to stop has nothing left but its own end, where an interrupt would
        only leave a traceback.
        """
        numbers = (signal.SIGINT, signal.SIGTERM)
        previous = {number: signal.signal(number, self._handle) for number in numbers}
        try:
            yield
        finally:
            if self.received is None:
                for number, handler in previous.items():
                    signal.signal(number, handler)

    def _handle(self, number: int, _frame: FrameType | None) -> None:
        if self.received is not None:
            os._exit(128 + number)
        self.received = number
        if self._supervisor is None:
            self._say_so()
        if self._token is not None:
            with suppress(trio.RunFinishedError):
                self._token.run_sync_soon(self._asked.set)

    def _say_so(self) -> None:
        # Not through sys.stderr: where this signal interrupted a write, that refuses another one.
        with suppress(OSError):
            os.write(2, f"trioloop: {self._notice()}; again to stop at once\n".encode())

    def _notice(self) -> str:
        if not self.serving:
            return "stopping before the start was over"
        if math.isinf(self._grace):
            return "draining until the last request has ended"
        return f"draining: {self._grace:g} s at most"

    async def wait(self) -> None:
        """Wait for the first signal, or for the supervisor to close its end of the pipe."""
        # In this order: a signal in between finds the token, or is found by the next line.
        self._token = trio.lowlevel.current_trio_token()
        if self.received is not None:
            return
        async with trio.open_nursery() as nursery:
            if self._supervisor is not None:
                nursery.start_soon(self._heed, self._supervisor.fileno())
            await self._asked.wait()
            nursery.cancel_scope.cancel()

    async def _heed(self, pipe: int) -> None:
        await trio.lowlevel.wait_readable(pipe)  # nothing is ever sent this way: it is the end
        self._asked.set()

    async def cancel(self, scope: trio.CancelScope) -> None:
        """Cancel `scope` at the first signal."""
        await self.wait()
        scope.cancel()


def _run_workers(application: str | Application, config: Config) -> int:
    """Serve with several processes, or with one that is replaced after ``max_requests``."""
    path = importable(application)
    config.workers = max(1, config.workers)
    patience = config.graceful_timeout + config.shutdown_timeout + config.startup_timeout
    with listening(config) as sockets, pid_file(config.pid_path):
        supervisor = Supervisor(_work, (path, config, sockets), config.workers, patience)
        try:
            return supervisor.run()
        except (PicklingError, TypeError, AttributeError) as error:
            raise CannotServeError(
                f"cannot start {config.workers} workers: {error}; the configuration has something "
                "in it that other processes cannot be given"
            ) from error


def _work(application: str, config: Config, sockets: Sockets, pipe: Connection) -> None:
    """Be a worker of `_run_workers`."""
    let_signals_in()

    def serving(_: Sequence[str]) -> None:
        with suppress(OSError):  # the supervisor has ended: the drain begins
            pipe.send(SERVING)

    try:
        code = _run_here(loaded(application), config, sockets, serving, pipe)
    except CannotServeError as error:
        code = error.report(verbose=str(config.loglevel).upper() == "DEBUG")
    except KeyboardInterrupt:
        code = 128 + signal.SIGINT
    sys.exit(code)


def _run_reloading(application: str | Application, config: Config) -> int:
    """Hand over to Hypercorn, which watches the files; its own workers serve."""
    config.application_path = importable(application)
    config.worker_class = "trio"
    config.workers = max(1, config.workers)
    try:
        code = hypercorn.run.run(config)
    except (RuntimeError, *BIND_ERRORS) as error:
        binds = ", ".join(config.bind)
        raise CannotServeError(
            f"cannot start {config.workers} workers on {binds}: {error}"
        ) from error
    return code if code >= 0 else 128 - code  # a worker ended by a signal, as a shell reports it


def _reason_to_stop(
    group: BaseExceptionGroup[BaseException], config: Config, *, serving: bool
) -> BaseException | None:
    """Find what ended the server on purpose: the application's refusal, or its call of exit."""
    stage = "shutdown" if serving else "startup"
    for error in leaves(group):
        if isinstance(error, LifespanFailureError):
            said = re.sub(r"\ALifespan failure in \w+\. '|'\Z", "", str(error)).rstrip()
            last = said.splitlines()[-1].strip() if said else "it gave no reason"
            return CannotServeError(
                f"the application's {stage} failed: {last}", f"{said}\n" if "\n" in said else ""
            )
        if isinstance(error, LifespanTimeoutError):
            seconds = getattr(config, f"{stage}_timeout")
            return CannotServeError(
                f"the application's {stage} took more than {seconds:g} s "
                f"({stage}_timeout in the configuration)"
            )
    return exit_in(group)
