"""`check_handler`: the state machine in one line."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import run_state_machine_as_test

from .._web._options import Factory
from ._machine import HandlerMachine


def check_handler(
    handler: Factory,
    *,
    messages: st.SearchStrategy[Any] | None = None,
    options: Mapping[str, Any] | None = None,
    examples: int = 100,
    steps: int = 30,
) -> type[HandlerMachine]:
    """Drive a handler through everything that can happen to it, and check the laws.

    ::

        def test_the_chat_keeps_the_laws():
            check_handler(Chat)

    Args:
        handler: a handler class, or a callable that makes a handler.
        messages: a strategy of messages; by default made from the handler's message type.
        options: the handler's options, as for a route.
        examples: how many examples to try.
        steps: how many steps an example has at most.

    Returns:
        The machine, whose ``reached`` counts the endings that were reached.

    Raises:
        TypeError: the handler's type does not say what its messages are.
        LawBroken: a law was broken; the report shows how, and a test to paste.
    """
    name = f"{getattr(handler, '__name__', type(handler).__name__)}Machine"
    attributes = {
        "handler": staticmethod(handler),
        "messages": messages,
        "options": dict(options or {}),
    }
    machine: type[HandlerMachine] = type(name, (HandlerMachine,), attributes)
    machine.message_strategy()  # so that a type that says too little is told at once
    run_state_machine_as_test(
        machine,
        settings=settings(max_examples=examples, stateful_step_count=steps, deadline=None),
    )
    return machine
