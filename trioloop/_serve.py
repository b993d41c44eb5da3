"""Any ASGI application on Hypercorn's Trio worker, told when the server goes down.

The laws of this file:

* Every scope (``http``, ``websocket``, ``lifespan``) carries
  ``scope["extensions"]["trioloop.shutdown"] = {"wait": wait}``. ``wait`` returns once the server
  has begun to drain, and the notice is out before the server stops listening.
* The server's own scope is never changed: the application gets a copy of it and of its
  ``extensions``.
"""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Any, Final, TypeAlias, cast

import trio
from hypercorn.app_wrappers import ASGIWrapper
from hypercorn.trio.run import worker_serve as stock_worker_serve
from hypercorn.utils import LifespanFailureError

from .server._versions import find_misfit

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterator

    from hypercorn.config import Config, Sockets

SHUTDOWN_EXTENSION: Final = "trioloop.shutdown"
OWN_WORKER: Final = "trioloop"
STOCK_WORKER: Final = "stock"

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
    await serve_telling(
        app, config, shutdown_trigger or trio.sleep_forever, task_status=task_status
    )


async def serve_telling(
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
            self.failure = self.failure or exit_in(error)
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


def exit_in(error: BaseException) -> SystemExit | KeyboardInterrupt | None:
    for leaf in leaves(error):
        if isinstance(leaf, SystemExit | KeyboardInterrupt):
            return leaf
    return None


def leaves(error: BaseException) -> Iterator[BaseException]:
    if isinstance(error, BaseExceptionGroup):
        for inner in cast("BaseExceptionGroup[BaseException]", error).exceptions:
            yield from leaves(inner)
    else:
        yield error
