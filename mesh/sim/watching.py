"""Whoever looks on while a run goes: the checker, a story. They see everything and change nothing."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

from mesh.effects import Effect, Reply, Send
from mesh.events import Event

if TYPE_CHECKING:
    from mesh.sim.machine import Machine


class Watcher(Protocol):
    """One of them."""

    def started(self, machine: Machine) -> None: ...
    def stopped(self, machine: Machine) -> None: ...
    def handled(self, machine: Machine, event: Event, effects: list[Effect]) -> None: ...
    def leaves(self, machine: Machine, send: Send) -> None: ...
    def replies(self, machine: Machine, reply: Reply) -> None: ...


class Watchers:
    """Several who look on, in this order."""

    def __init__(self, watchers: tuple[Watcher, ...]) -> None:
        self._watchers = watchers

    def started(self, machine: Machine) -> None:
        for watcher in self._watchers:
            watcher.started(machine)

    def stopped(self, machine: Machine) -> None:
        for watcher in self._watchers:
            watcher.stopped(machine)

    def handled(self, machine: Machine, event: Event, effects: list[Effect]) -> None:
        for watcher in self._watchers:
            watcher.handled(machine, event, effects)

    def leaves(self, machine: Machine, send: Send) -> None:
        for watcher in self._watchers:
            watcher.leaves(machine, send)

    def replies(self, machine: Machine, reply: Reply) -> None:
        for watcher in self._watchers:
            watcher.replies(machine, reply)
