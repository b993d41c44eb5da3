"""Names and groups: who can be found, and who hears of it.

Laws of this file:

* One name, one living handler; a handler is a member of a group once.
* Everything here is synchronous: a look-up and what follows it are one step.
* A handler that ends leaves all of it before its ``terminate`` starts.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeAlias, final

from ._errors import NameTaken

if TYPE_CHECKING:
    from ._machine import Machine
    from ._ref import HandlerRef


@final
@dataclass(frozen=True, slots=True)
class Member:
    """A handler in a group.

    Args:
        ref: the handler.
        meta: what it said of itself when it joined.
    """

    ref: HandlerRef[Any]
    meta: Any = None


@final
@dataclass(frozen=True, slots=True)
class Joined:
    """Message to those who ``watch`` a group: a handler has joined it, or joined again with new meta."""

    group: Hashable
    ref: HandlerRef[Any]
    meta: Any = None


@final
@dataclass(frozen=True, slots=True)
class Left:
    """Message to those who ``watch`` a group: a handler has left it, by itself or by ending."""

    group: Hashable
    ref: HandlerRef[Any]
    meta: Any = None


class Registry:
    """The names, groups and watchers of one hub."""

    __slots__ = ("groups", "names", "watchers")

    def __init__(self) -> None:
        self.names: dict[Hashable, Machine] = {}
        self.groups: dict[Hashable, dict[Machine, Member]] = {}
        self.watchers: dict[Hashable, dict[Machine, None]] = {}

    def register(self, name: Hashable, machine: Machine, *, replace: bool) -> None:
        """Give a name to a handler.

        Raises:
            NameTaken: another handler holds it and ``replace`` is false.
        """
        holder = self.names.get(name)
        if holder is machine:
            return
        if holder is not None:
            if not replace:
                raise NameTaken(
                    f"the name {name!r} belongs to {holder.ref!r}; register({name!r}, replace=True)"
                    " takes it over"
                )
            _give_back(holder, Registry.unregister, name)
        self.names[name] = machine
        _take(machine, Registry.unregister, name)

    def unregister(self, name: Hashable, machine: Machine) -> None:
        """Give a name back; nothing happens when the handler does not hold it."""
        if self.names.get(name) is machine:
            del self.names[name]
            _give_back(machine, Registry.unregister, name)

    def join(self, group: Hashable, machine: Machine, meta: Any) -> None:
        """Add a handler to a group, or change its meta there."""
        member = Member(machine.ref, meta)
        self.groups.setdefault(group, {})[machine] = member
        _take(machine, Registry.leave, group)
        self._tell(Joined(group, member.ref, meta), group)

    def leave(self, group: Hashable, machine: Machine) -> None:
        """Take a handler out of a group; nothing happens when it is not in it."""
        members = self.groups.get(group, {})
        member = members.pop(machine, None)
        if member is None:
            return
        if not members:
            del self.groups[group]
        _give_back(machine, Registry.leave, group)
        self._tell(Left(group, member.ref, member.meta), group)

    def watch(self, group: Hashable, machine: Machine) -> None:
        """Send `Joined` and `Left` of this group to a handler."""
        self.watchers.setdefault(group, {})[machine] = None
        _take(machine, Registry.unwatch, group)

    def unwatch(self, group: Hashable, machine: Machine) -> None:
        """Send no more of them."""
        watchers = self.watchers.get(group, {})
        watchers.pop(machine, None)
        if not watchers:
            self.watchers.pop(group, None)
        _give_back(machine, Registry.unwatch, group)

    def members(self, group: Hashable) -> tuple[Member, ...]:
        """Who is in a group, in the order of joining."""
        return tuple(self.groups.get(group, {}).values())

    def forget(self, machine: Machine) -> None:
        """Take a handler out of everything, in the order in which it came there."""
        for undo, key in tuple(machine.belongings or ()):
            undo(self, key, machine)

    def _tell(self, message: Joined | Left, group: Hashable) -> None:
        for watcher in tuple(self.watchers.get(group, ())):
            watcher.tell(message)


Undo: TypeAlias = "Callable[[Registry, Hashable, Machine], None]"

Belongings: TypeAlias = "dict[tuple[Undo, Hashable], None]"
"""What one handler holds in the registry: how to take it out, and of what. Kept in order."""


def _take(machine: Machine, undo: Undo, key: Hashable) -> None:
    if machine.belongings is None:
        machine.belongings = {}
    machine.belongings[undo, key] = None


def _give_back(machine: Machine, undo: Undo, key: Hashable) -> None:
    if machine.belongings is not None:
        machine.belongings.pop((undo, key), None)
