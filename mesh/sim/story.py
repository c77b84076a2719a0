"""Tells what happened in a run: the life of one task, or the last events before an invariant broke.

Keeps what passes by and turns it into words only when asked, because most runs have nothing to tell.
"""

import re
from collections import deque
from typing import Any

from mesh.effects import Effect, Publish, Reply, Send
from mesh.events import ClientMessage, Event, GossipReceived, PeerMessage
from mesh.sim.machine import Machine
from mesh.wire.codec import Rubbish, decode_batch, decode_heartbeat, decode_peer, decode_reply, decode_request

KEPT_MAX = 200_000
LINE_MAX = 260
COMMANDS_KIND = 1


class Story:
    """A watcher that remembers. `virtual_ms` of a line counts from the start of the run."""

    def __init__(self) -> None:
        self._lines: deque[tuple[int, str, Any, list[Effect]]] = deque(maxlen=KEPT_MAX)
        self._offices: dict[str, str] = {}

    def started(self, machine: Machine) -> None:
        self._note(machine, f"starts, incarnation {machine.incarnation}")

    def stopped(self, machine: Machine) -> None:
        self._note(machine, "crashes")

    def handled(self, machine: Machine, event: Event, effects: list[Effect]) -> None:
        raft = machine.node.raft
        now_us = machine.schedule_now_us
        self._lines.append((now_us, machine.node_id, event, effects))
        office = f"is {raft.role.value} in term {raft.term}"
        if office != self._offices.get(machine.node_id):
            self._offices[machine.node_id] = office
            self._note(machine, office)

    def leaves(self, machine: Machine, send: Send) -> None:
        """Told by what it arrives as."""

    def replies(self, machine: Machine, reply: Reply) -> None:
        """Told among the effects."""

    def _note(self, machine: Machine, what: str) -> None:
        self._lines.append((machine.schedule_now_us, machine.node_id, what, []))

    # --- telling ------------------------------------------------------------------------------------------------------

    def of_task(self, task_id: str, lines_max: int) -> list[str]:
        """Every event and effect that names the task, with starts, crashes and changes of office; the last ones."""
        pattern = re.compile(rf"(?<![\w-]){re.escape(task_id)}(?![\w-])")
        told: deque[str] = deque(maxlen=lines_max)
        for now_us, node_id, event, effects in self._lines:
            if isinstance(event, str):
                told.append(_line(now_us, node_id, event))
                continue
            if isinstance(event, GossipReceived) and not effects:
                continue
            for what in [_words(event), *(f"    -> {_words(effect)}" for effect in effects)]:
                if pattern.search(what):
                    told.append(_line(now_us, node_id, _around(what, pattern)))
        return list(told)

    def last(self, lines_max: int) -> list[str]:
        """The last events, with their effects."""
        told: deque[str] = deque(maxlen=lines_max)
        for now_us, node_id, event, effects in list(self._lines)[-lines_max:]:
            told.append(_line(now_us, node_id, event if isinstance(event, str) else _words(event)))
            told.extend(_line(now_us, node_id, f"    -> {_words(effect)}") for effect in effects)
        return list(told)


def _line(now_us: int, node_id: str, what: str) -> str:
    return f"{now_us / 1_000:12.3f} {node_id} {what[:LINE_MAX]}"


def _around(what: str, pattern: re.Pattern[str]) -> str:
    """A long line shortened so that the task's name stays in it."""
    found = pattern.search(what)
    if found is None or found.end() < LINE_MAX:
        return what
    return f"{what[:80]} ... {what[max(80, found.start() - 60) :]}"


def _words(thing: Any) -> str:
    """An event or effect, its bytes decoded."""
    try:
        match thing:
            case PeerMessage():
                return f"{thing.peer} says {_entries(decode_peer(thing.data))}"
            case ClientMessage():
                return f"client {thing.client} says {decode_request(thing.data)}"
            case GossipReceived():
                return f"gossip {decode_heartbeat(thing.data)}"
            case Send():
                return f"to {thing.to} after {thing.after}: {_entries(decode_peer(thing.data))}"
            case Reply():
                return f"to client {thing.client}: {decode_reply(thing.data)}"
            case Publish():
                return "publishes"
            case _:
                return _entries(thing)
    except Rubbish as error:
        return f"{type(thing).__name__} of rubbish: {error}"


def _entries(thing: Any) -> str:
    """As it prints, but for log entries, whose commands are shown."""
    entries = getattr(thing, "entries", None)
    if not entries:
        return str(thing)
    shown = [
        f"{entry.index}/{entry.term}{decode_batch(entry.data).commands if entry.kind == COMMANDS_KIND else ''}"
        for entry in entries
    ]
    fields = ", ".join(f"{name}={getattr(thing, name)}" for name in thing.__struct_fields__ if name != "entries")
    return f"{type(thing).__name__}({fields}, entries: {' '.join(shown)})"
