"""Any ASGI application on Hypercorn's Trio worker, told when the server goes down.

The laws of this file:

* Every scope (``http``, ``websocket``, ``lifespan``) carries
  ``scope["extensions"]["trioloop.shutdown"] = {"wait": wait}``. ``wait`` returns once the server
  has begun to drain, and the notice is out before the server stops listening.
* The server's own scope is never changed: the application gets a copy of it and of its
  ``extensions``.
* What an operator can mend (a missing module, an address in use, an unreadable key) ends the
  process with one line on stderr that names the value, and with exit code 1. Any other failure
  keeps its traceback.
* The first SIGINT or SIGTERM drains, the second ends the process there and then, whatever runs.

Where one process is not enough (several workers, ``max_requests``), each worker is a process that
does all this by itself, under the supervisor of ``server/_processes.py``. Only reloading is
Hypercorn's own, with its stock worker and without a notice.
"""

from __future__ import annotations

import copy
import gc
import inspect
import math
import os
import re
import signal
import sys
import traceback
from contextlib import ExitStack, contextmanager, suppress
from functools import partial
from pathlib import Path
from pickle import PicklingError
from typing import TYPE_CHECKING, Any, Final, TypeAlias, cast

import hypercorn.run
import trio
from hypercorn.app_wrappers import ASGIWrapper
from hypercorn.config import Config, Sockets, SocketTypeError
from hypercorn.trio.run import worker_serve as stock_worker_serve
from hypercorn.trio.statsd import StatsdLogger
from hypercorn.utils import (
    LifespanFailureError,
    LifespanTimeoutError,
    NoAppError,
    load_application,
    write_pid_file,
)

from .server._processes import SERVING, Supervisor
from .server._versions import find_misfit

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Generator, Iterator, Sequence
    from multiprocessing.connection import Connection
    from types import FrameType

SHUTDOWN_EXTENSION: Final = "trioloop.shutdown"
OWN_WORKER: Final = "trioloop"
STOCK_WORKER: Final = "stock"
COLLECTOR_THRESHOLDS: Final = (50_000, 20, 100)
"""For `gc.set_threshold`, once `run` serves. An application can set its own in its lifespan's
first request, or anywhere later."""

# Any: an application fits whichever TypedDicts it uses for scopes and events.
Application: TypeAlias = "Callable[[Any, Any, Any], Awaitable[None]]"


async def serve(
    app: Application,
    config: Config,
    *,
    shutdown_trigger: Callable[[], Awaitable[object]] | None = None,
    task_status: trio.TaskStatus[list[str]] = trio.TASK_STATUS_IGNORED,
) -> None:
    """Serve an ASGI application on Hypercorn's Trio worker, and tell it when the server goes down.

    Every scope holds ``scope["extensions"]["trioloop.shutdown"]["wait"]``, an async function
    without arguments that returns once the server has begun to drain. From then on requests in
    flight have ``config.graceful_timeout`` seconds before they are cancelled.

    Args:
        app: The ASGI application, called as ``await app(scope, receive, send)``.
        config: Hypercorn's configuration. As in ``hypercorn.trio.serve``, what concerns processes
            (``workers``, ``use_reloader``, ``pid_path``) has no effect.
        shutdown_trigger: Called without arguments when the server listens; the drain begins when it
            returns. Without it, the server runs until it is cancelled or interrupted (Ctrl-C).
        task_status: Told the addresses, such as ``"http://127.0.0.1:8000"``, once the server
            listens on them; they name the port that the system chose where 0 was asked for.

    Returns:
        When the drain and the application's lifespan are over.

    Raises:
        hypercorn.utils.LifespanFailureError: The application refused to start or to stop.
        SystemExit, KeyboardInterrupt: The application raised it in its lifespan.
        BaseExceptionGroup: Among others with an ``OSError`` (an address cannot be bound, a TLS
            file cannot be read), with Hypercorn's ``LifespanTimeoutError``, or with what
            ``shutdown_trigger`` raised.

    Source: ``hypercorn.trio.serve``, which takes the same arguments.
    """
    await _serve_telling(
        app, config, shutdown_trigger or trio.sleep_forever, task_status=task_status
    )


async def _serve_telling(
    app: Application,
    config: Config,
    trigger: Callable[[], Awaitable[object]],
    *,
    sockets: Sockets | None = None,
    task_status: trio.TaskStatus[list[str]] = trio.TASK_STATUS_IGNORED,
) -> None:
    draining = trio.Event()
    lifespan = _Lifespan(app)
    lifespan_app = _told(app, lifespan.run, draining)
    serve_here: Callable[..., Awaitable[None]]
    if await _own_worker_fits(config):
        from .server._worker import worker_serve

        serve_here = partial(worker_serve, app, lifespan=lifespan_app, notice=draining)
    else:
        serve_here = partial(stock_worker_serve, ASGIWrapper(lifespan_app))
    with lifespan.server:
        await serve_here(
            config=config,
            sockets=sockets,
            shutdown_trigger=_noting(trigger, draining),
            task_status=task_status,
        )
    if lifespan.failure is not None:
        raise lifespan.failure


async def _own_worker_fits(config: Config) -> bool:
    """Whether this package's worker serves: not where the stock one is asked for, or needed."""
    if getattr(config, "worker", OWN_WORKER) == STOCK_WORKER:
        return False
    misfit = find_misfit()
    if misfit is not None:
        await config.log.warning(
            "trioloop's worker does not fit (%s): Hypercorn's own serves, slower and less safe",
            misfit,
        )
    return misfit is None


def _told(app: Application, lifespan: Application, draining: trio.Event) -> Application:
    """Put the shutdown notice into every scope, and send lifespans to `lifespan`."""

    # A closure, not the event's bound method: Hypercorn's ProxyFixMiddleware deep-copies the scope,
    # which keeps a function as it is and would copy the event behind a method.
    async def wait() -> None:
        await draining.wait()

    async def told(scope: dict[str, Any], receive: Any, send: Any) -> None:
        extensions: dict[str, Any] = {
            **(scope.get("extensions") or {}),
            SHUTDOWN_EXTENSION: {"wait": wait},
        }
        run = lifespan if scope["type"] == "lifespan" else app
        await run({**scope, "extensions": extensions}, receive, send)

    return told


class _Lifespan:
    """The lifespan of an application, where Hypercorn 0.18's Trio worker needs help.

    * It dies of an application that returns from its lifespan early, as one does that knows only
      ``http`` scopes: it writes to a channel that it has closed itself. The rest is answered here.
    * It listens for a moment, and says so, after a startup that failed. It is cancelled here.
    * It goes on serving when an exit is asked for below a nursery. It is cancelled here, too.
    """

    def __init__(self, app: Application) -> None:
        self.server = trio.CancelScope()
        self.failure: LifespanFailureError | SystemExit | KeyboardInterrupt | None = None
        self._app = app
        self._received: set[str] = set()
        self._sent: set[str] = set()

    async def run(self, scope: Any, receive: Any, send: Any) -> None:
        """Run the application's lifespan, as an ASGI application of its own."""
        # Whatever the application does from here on, Hypercorn has written to its channel before.
        unread = [await receive()]

        async def noted_receive() -> Any:
            message = unread.pop() if unread else await receive()
            self._received.add(message["type"])
            return message

        async def noted_send(message: Any) -> None:
            self._sent.add(message["type"])
            try:
                await send(message)
            except LifespanFailureError as error:
                self.failure = error
                raise

        try:
            await self._app(scope, noted_receive, noted_send)
        except BaseException as error:
            self.failure = self.failure or _exit_in(error)
            if self.failure is not None:  # bare: of a group, Hypercorn says that it serves on
                raise self.failure from None
            raise
        finally:
            if self.failure is not None:  # not before: the application cleans up undisturbed
                self.server.cancel()
        if self.failure is None:
            await self._answer_the_rest(receive, send)

    async def _answer_the_rest(self, receive: Any, send: Any) -> None:
        if "lifespan.startup.complete" not in self._sent:
            await send({"type": "lifespan.startup.complete"})
        if "lifespan.shutdown" not in self._received:
            await receive()
        if "lifespan.shutdown.complete" not in self._sent:
            await send({"type": "lifespan.shutdown.complete"})


def _noting(
    trigger: Callable[[], Awaitable[object]], draining: trio.Event
) -> Callable[[], Awaitable[None]]:
    """Give the notice when `trigger` returns, just before Hypercorn hears of it."""

    async def noted() -> None:
        # Hypercorn also drains on an interrupt and after max_requests. Both cancel this task first,
        # as the caller's own cancellation does, so the notice goes out in every case.
        try:
            await trigger()
        finally:
            draining.set()

    return noted


class CannotServeError(Exception):
    """The server cannot run as asked, and the operator can mend it.

    Args:
        message: One line that names the offending value and the way out.
        detail: More lines for those who ask for them, such as a traceback; empty when there are
            none.
    """

    def __init__(self, message: str, detail: str = "") -> None:
        super().__init__(message)
        self.detail = detail

    def report(self, *, verbose: bool = False) -> int:
        """Write the line to stderr, after the detail if `verbose`.

        Returns:
            The exit code of a server that cannot run, 1.
        """
        more = "; --log-level debug shows more" if self.detail and not verbose else ""
        sys.stderr.write(f"{self.detail if verbose else ''}trioloop: {self}{more}\n")
        return 1


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
        _check_settings(config)
        _check_tls(config)
        app = _loaded(application) if isinstance(application, str) else application
        if config.use_reloader:
            return _run_reloading(application, config)
        if config.workers > 1 or config.max_requests is not None:
            return _run_workers(application, config)
        with _listening(config) as sockets, _pid_file(config.pid_path):
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
    _open_logs(config)
    worker = partial(_serve_telling, app, config, signals.wait, sockets=sockets)
    async with trio.open_nursery() as server:
        binds: list[str] | None = None
        # Hypercorn awaits the trigger only once it listens: a startup that hangs would not hear it.
        async with trio.open_nursery() as starting:
            starting.start_soon(signals.cancel, starting.cancel_scope)
            binds = await server.start(worker)
            starting.cancel_scope.cancel()
        if binds is None:
            # None: the supervisor has closed the pipe, which is no failure of this worker.
            return 0 if signals.received is None else 128 + signals.received
        signals.serving = True
        if on_listening is not None:
            on_listening(binds)
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
    path = _importable(application)
    config.workers = max(1, config.workers)
    patience = config.graceful_timeout + config.shutdown_timeout + config.startup_timeout
    with _listening(config) as sockets, _pid_file(config.pid_path):
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
    # They were ignored so that none came too early; from here on, an interrupt may.
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    signal.signal(signal.SIGINT, signal.default_int_handler)

    def serving(_: Sequence[str]) -> None:
        with suppress(OSError):  # the supervisor has ended: the drain begins
            pipe.send(SERVING)

    try:
        code = _run_here(_loaded(application), config, sockets, serving, pipe)
    except CannotServeError as error:
        code = error.report(verbose=str(config.loglevel).upper() == "DEBUG")
    except KeyboardInterrupt:
        code = 128 + signal.SIGINT
    sys.exit(code)


def _run_reloading(application: str | Application, config: Config) -> int:
    """Hand over to Hypercorn, which watches the files; its own workers serve."""
    config.application_path = _importable(application)
    config.worker_class = "trio"
    config.workers = max(1, config.workers)
    try:
        code = hypercorn.run.run(config)
    except (RuntimeError, *_BIND_ERRORS) as error:
        binds = ", ".join(config.bind)
        raise CannotServeError(
            f"cannot start {config.workers} workers on {binds}: {error}"
        ) from error
    return code if code >= 0 else 128 - code  # a worker ended by a signal, as a shell reports it


def _importable(application: str | Application) -> str:
    if not isinstance(application, str):
        raise CannotServeError(
            f"{application!r} is an object, which other processes cannot load: name it as "
            "'module:attribute', or do without workers, reloading and max_requests"
        )
    return _spelt_out(application)


def _reason_to_stop(
    group: BaseExceptionGroup[BaseException], config: Config, *, serving: bool
) -> BaseException | None:
    """Find what ended the server on purpose: the application's refusal, or its call of exit."""
    stage = "shutdown" if serving else "startup"
    for error in _leaves(group):
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
    return _exit_in(group)


def _exit_in(error: BaseException) -> SystemExit | KeyboardInterrupt | None:
    for leaf in _leaves(error):
        if isinstance(leaf, SystemExit | KeyboardInterrupt):
            return leaf
    return None


def _leaves(error: BaseException) -> Iterator[BaseException]:
    if isinstance(error, BaseExceptionGroup):
        for inner in cast("BaseExceptionGroup[BaseException]", error).exceptions:
            yield from _leaves(inner)
    else:
        yield error


def _check_settings(config: Config) -> None:
    """Refuse the values of a configuration file that Hypercorn would stumble over much later."""
    for name in ("bind", "insecure_bind", "quic_bind"):
        if not all(isinstance(each, str) for each in _as_list(getattr(config, name))):
            raise _unfit(config, name, "addresses such as '127.0.0.1:8000'")
    for name in ("graceful_timeout", "keep_alive_timeout"):
        if not _is_number(getattr(config, name), int, float):
            raise _unfit(config, name, "seconds, 0 or more")
    for name in ("workers", "backlog"):
        if not _is_number(getattr(config, name), int):
            raise _unfit(config, name, "a whole number, 0 or more")


def _as_list(value: object) -> list[object]:
    return cast("list[object]", value) if isinstance(value, list) else [None]


def _is_number(value: object, *kinds: type[int | float]) -> bool:
    return isinstance(value, kinds) and not isinstance(value, bool) and value >= 0


def _unfit(config: Config, name: str, wanted: str) -> CannotServeError:
    return CannotServeError(f"{name} is {getattr(config, name)!r}: it takes {wanted}")


def _check_tls(config: Config) -> None:
    """Find out now what Hypercorn would find after the application's startup, or not at all."""
    if config.certfile is None and config.keyfile is None and config.ca_certs is None:
        return
    if config.certfile is None or config.keyfile is None:
        # Hypercorn would serve without TLS.
        given = config.certfile or config.keyfile or config.ca_certs
        raise CannotServeError(f"{given!r} alone makes no TLS: give both --certfile and --keyfile")
    for path in filter(None, (config.certfile, config.keyfile, config.ca_certs)):
        try:
            content = Path(path).read_bytes()
        except OSError as error:
            raise CannotServeError(
                f"cannot read the TLS file {path!r}: {error.strerror}"
            ) from error
        if path == config.keyfile and b"ENCRYPTED" in content and not config.keyfile_password:
            # OpenSSL would ask on the terminal, which a service does not have.
            raise CannotServeError(f"the key in {path!r} is encrypted: give --keyfile-password")
    try:
        config.create_ssl_context()
    except (OSError, ValueError) as error:  # ssl.SSLError is an OSError
        raise CannotServeError(
            f"cannot use the TLS files (--certfile {config.certfile!r}, "
            f"--keyfile {config.keyfile!r}, --ca-certs {config.ca_certs!r}): {error}; "
            "they are PEM files that belong together, with the right --keyfile-password"
        ) from error


def _spelt_out(application: str) -> str:
    """Give the full form of Hypercorn's path to an application, ``asgi:module:attribute``.

    Left to guess, Hypercorn takes a callable that is not ``async def`` for a WSGI application.
    """
    mode, _, rest = application.partition(":")
    if mode == "wsgi":
        raise CannotServeError(f"{application!r} is WSGI; what is served here is ASGI")
    path = rest if mode == "asgi" else application
    return f"asgi:{path}" if ":" in path else f"asgi:{path}:app"


def _loaded(application: str) -> Application:
    """Import the application.

    Raises:
        CannotServeError: The module or the attribute is missing, importing it failed, or it is
            not an ASGI application.
    """
    path = _spelt_out(application)
    try:
        wrapper = load_application(path, Config.wsgi_max_body_size)
    except Exception as error:
        raise _not_loaded(path, error) from error
    app = cast("ASGIWrapper", wrapper).app
    _check_asgi(path, app)
    return app


def _not_loaded(path: str, error: Exception) -> CannotServeError:
    _, module, attribute = path.split(":", 2)
    cause = (isinstance(error, NoAppError) and error.__context__) or error
    frames = traceback.extract_tb(cause.__traceback__)
    last = [frame for frame in frames if not frame.filename.startswith("<frozen ")][-1]
    if isinstance(cause, ModuleNotFoundError) and f"{Path(module).name}.".startswith(
        f"{cause.name}."
    ):
        return CannotServeError(
            f"cannot load '{module}:{attribute}': no module {cause.name!r}; "
            "--app-dir names the directory to look in"
        )
    # "<string>" is where Hypercorn evaluates the attribute.
    if isinstance(cause, NameError | AttributeError) and last.filename == "<string>":
        return CannotServeError(
            f"cannot load '{module}:{attribute}': module {module!r} has no {attribute!r}; "
            "name the application as module:attribute"
        )
    # A SyntaxError says where it is itself.
    where = "" if isinstance(cause, SyntaxError) else f" ({last.filename}, line {last.lineno})"
    return CannotServeError(
        f"cannot load '{module}:{attribute}': {type(cause).__name__}: {cause}{where}",
        "".join(traceback.format_exception(cause)),
    )


def _check_asgi(path: str, app: object) -> None:
    name = path.removeprefix("asgi:")
    if not callable(app):
        raise CannotServeError(
            f"{name!r} is {app!r}, which cannot be called: "
            "name an ASGI application as module:attribute"
        )
    try:
        inspect.signature(app).bind("scope", "receive", "send")
    except TypeError:
        raise CannotServeError(
            f"{name!r} cannot be called with (scope, receive, send), so it is not an ASGI "
            f"application; if it makes one, write '{name}()'"
        ) from None
    except ValueError:  # a callable without a signature: written in C
        pass


# What Config.create_sockets raises: in use or unknown, a bad number, a port too high, fd:// of UDP.
_BIND_ERRORS: Final = (OSError, ValueError, OverflowError, SocketTypeError)


@contextmanager
def _listening(config: Config) -> Generator[Sockets, None, None]:
    """Listen on the configured addresses, each by itself, so that a failure can name its address.

    Raises:
        CannotServeError: One of them cannot be bound or listened on.
    """
    sockets = Sockets([], [], [])
    with ExitStack() as opened:
        for part in _address_by_address(config):
            try:
                made = part.create_sockets()
                streams = [*made.secure_sockets, *made.insecure_sockets]
                for each in (*streams, *made.quic_sockets):
                    opened.enter_context(each)
                for each in streams:
                    each.listen(config.backlog)
            except _BIND_ERRORS as error:
                name = ", ".join((*part.bind, *part.insecure_bind, *part.quic_bind))
                raise CannotServeError(
                    f"cannot listen on {name}: {getattr(error, 'strerror', None) or error}; "
                    "--bind takes another address"
                ) from error
            sockets.secure_sockets.extend(made.secure_sockets)
            sockets.insecure_sockets.extend(made.insecure_sockets)
            sockets.quic_sockets.extend(made.quic_sockets)
        yield sockets


def _address_by_address(config: Config) -> list[Config]:
    if config.quic_bind:
        return [config]  # it has to make the QUIC sockets itself, to announce their addresses
    parts: list[Config] = []
    for kind in ("bind", "insecure_bind"):
        for address in getattr(config, kind):
            part = copy.copy(config)
            part.bind, part.insecure_bind = [], []
            setattr(part, kind, [address])
            parts.append(part)
    return parts


@contextmanager
def _pid_file(path: str | None) -> Generator[None, None, None]:
    """Keep the number of this process in a file, until it ends."""
    if path is None:
        yield
        return
    try:
        write_pid_file(path)
    except OSError as error:
        raise CannotServeError(f"cannot write the PID file {path!r}: {error.strerror}") from error
    try:
        yield
    finally:
        Path(path).unlink(missing_ok=True)


def _open_logs(config: Config) -> None:
    """Open the logs, which Hypercorn does at the first line that it logs.

    Raises:
        CannotServeError: A log file or a logging configuration cannot be used.
    """
    # First, as the worker does it: which logger it is depends on it.
    config.set_statsd_logger_class(StatsdLogger)
    try:
        config.log  # noqa: B018  # a property that opens them
    except (OSError, ValueError, KeyError, RuntimeError) as error:
        raise CannotServeError(f"cannot open the logs: {error}") from error
