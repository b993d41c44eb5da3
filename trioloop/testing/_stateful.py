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


def exchange_rules(cls: type, exchange: Callable[[Callable[..., Any]], Callable[..., Any]]) -> None:
    """Let the rules that a class defines itself be other functions, for Hypothesis and by hand."""
    for name, method in list(vars(cls).items()):
        for marker in RULES:
            rule = getattr(method, marker, None)
            if rule is not None:
                rule.function = exchange(rule.function)
                setattr(cls, name, exchange(method))


def invariants_of(cls: type) -> dict[str, Any]:
    """The functions that are a class's invariants, by their names there."""
    found = ((name, getattr(getattr(cls, name, None), INVARIANT, None)) for name in dir(cls))
    return {name: each.function for name, each in found if each is not None}


def check_invariants(machine: object) -> None:
    """Call the invariants of a machine, as Hypothesis does after every step.

    Raises:
        Exception: one does not hold.
    """
    cls = type(machine)
    for name, function in invariants_of(cls).items():
        invariant = getattr(getattr(cls, name), INVARIANT)
        if all(holds(machine) for holds in invariant.preconditions):
            function(machine)
