"""A state machine's rules and invariants, where Hypothesis keeps them.

Law of this file: it alone touches names of Hypothesis that are not documented, the attributes of
decorated methods. ``tests/testing/test_machine.py`` fails when Hypothesis renames them; then users'
own rules and invariants are missing in tests to paste, and everything else works.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final

RULES: Final = ("hypothesis_stateful_rule", "hypothesis_stateful_initialize_rule")
INVARIANT: Final = "hypothesis_stateful_invariant"


def exchange_rules(
    cls: type, exchange: Callable[[Callable[..., Any]], Callable[..., Any]]
) -> None:
    """Let the rules that a class defines itself be other functions, for Hypothesis and by hand."""
    for name, method in list(vars(cls).items()):
        for marker in RULES:
            rule = getattr(method, marker, None)
            if rule is not None:
                rule.function = exchange(rule.function)
                setattr(cls, name, exchange(method))


def check_invariants(machine: object) -> None:
    """Call the invariants of a machine, as Hypothesis does after every step.

    Raises:
        Exception: one does not hold.
    """
    for name in dir(type(machine)):
        invariant = getattr(getattr(type(machine), name, None), INVARIANT, None)
        if invariant is not None and all(holds(machine) for holds in invariant.preconditions):
            invariant.function(machine)
