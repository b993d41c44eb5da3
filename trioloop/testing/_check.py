"""`check_handler`: the state machine in one line."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any, ClassVar

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import invariant, run_state_machine_as_test
from starlette.types import ASGIApp

from .._web._hub import Hub
from .._web._options import Factory
from ._machine import HandlerMachine
from ._world import Worker


def check_handler(  # noqa: PLR0913 - what a subclass of the machine would say, in one line
    handler: Factory,
    *,
    app: Callable[[], ASGIApp] | None = None,
    path: str = "/",
    method: str = "GET",
    messages: st.SearchStrategy[Any] | None = None,
    invariants: Iterable[Callable[[HandlerMachine], object]] = (),
    options: Mapping[str, Any] | None = None,
    worker: Worker = "trioloop",
    examples: int = 100,
    steps: int = 50,
) -> type[HandlerMachine]:
    """Drive a handler through everything that can happen to it, and check the laws.

    ::

        def test_the_chat_keeps_the_laws():
            check_handler(Chat)

        def nobody_hears_an_echo(machine):
            for client in machine.clients:
                client.refute_event(lambda event: event.event == "echo")

        def test_the_chat_has_no_echo():
            check_handler(Chat, app=make_app, path="/chat/ada", invariants=[nobody_hears_an_echo])

    Args:
        handler: a handler class, or a callable that makes a handler.
        app: a function that makes a new application for each example; by default it is an `App`
            that serves the handler at ``path``.
        path: where clients ask, with a query if there is one; with ``app``, a path at which it
            serves the handler.
        method: how they ask.
        messages: a strategy of messages; by default made from the handler's message type.
        invariants: functions of the machine that assert what must be true after every step: ``sim``
            is its simulation, ``clients`` are its exchanges.
        options: the handler's options, as for a route; for a handler that is served without
            ``app``.
        worker: who serves, see `Simulation`.
        examples: how many examples to try.
        steps: how many steps an example has at most.

    Returns:
        The machine, whose ``reached`` counts the endings that were reached.

    Raises:
        TypeError: the handler's type does not say what its messages are, ``app`` makes no
            application, or has options.
        LawBroken: a law was broken; the report shows how, and a test to paste.
        AssertionError: an invariant does not hold, or ``init`` has raised in every example, so that
            nothing was checked.
    """
    if isinstance(getattr(app, "hub", None), Hub):
        raise TypeError(f"app= takes a function that makes a new application, not {app!r}")
    if app is not None and options is not None:
        raise TypeError("options= are for the handler alone; with app=, its route has them")
    name = getattr(handler, "__name__", type(handler).__name__)
    name = f"{name if name.isidentifier() else 'The'}Machine"  # a lambda has none
    attributes: dict[str, Any] = {
        "handler": staticmethod(handler),
        "app": None if app is None else staticmethod(app),
        "path": path,
        "method": method,
        "messages": messages,
        "options": dict(options or {}),
        "worker": worker,
    }
    for number, function in enumerate(invariants, start=1):
        attributes[f"invariant_{number}"] = invariant()(function)
    machine: type[_Watched] = type(name, (_Watched,), attributes)
    machine.message_strategy()  # so that a type that says too little is told at once
    run_state_machine_as_test(
        machine,
        settings=settings(max_examples=examples, stateful_step_count=steps, deadline=None),
    )
    machine.check_that_something_has_begun()
    return machine


class _Watched(HandlerMachine):
    """A machine that notices when no handler gets beyond ``init``."""

    begun: ClassVar[bool]
    init_error: ClassVar[BaseException | None]

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        cls.begun, cls.init_error = False, None

    def teardown(self) -> None:
        try:
            super().teardown()
        finally:
            if self.clients:
                self._look_at_inits()

    def _look_at_inits(self) -> None:
        cls = type(self)
        for entry in self.sim.journal:
            if entry.what == "init returned":
                cls.begun = True
            elif entry.what == "init raised":
                cls.init_error = cls.init_error or entry.detail

    @classmethod
    def check_that_something_has_begun(cls) -> None:
        if cls.init_error is not None and not cls.begun:
            raise AssertionError(
                f"each init has raised {cls.init_error!r}, so nothing was checked; what the handler"
                " needs is given by app=, path= and method="
            ) from cls.init_error
