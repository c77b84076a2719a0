"""The only place where effects become deeds.

Each is handed to the part of the process it belongs to, in order; none waits.
"""

from collections import deque
from collections.abc import Callable, Iterable
from typing import Any

from mesh import effects
from mesh.effects import Effect, Send
from mesh.storage.store import Store
from mesh.transport.zeromq import Transport
from nodes.agents import Agents
from nodes.telemetry import LOG

_TO_DISK = (
    effects.Persist,
    effects.WriteLedger,
    effects.TrimLog,
    effects.LoadRows,
    effects.LoadHistory,
    effects.OpenSnapshot,
    effects.ReadSnapshot,
    effects.CloseSnapshot,
    effects.StageSnapshot,
    effects.InstallSnapshot,
)
_TO_AGENTS = (effects.StartAttempts, effects.StopAttempts, effects.CheckpointKept)


class Performer:
    """Carries out what the core asks for. Holds back what must not leave before the disk has it.

    `retire` is told the exit code and the reason when this process is to end.
    """

    def __init__(
        self, store: Store, transport: Transport, agents: Agents, *, retire: Callable[[int, str], None]
    ) -> None:
        self._transport = transport
        self._held: deque[Send] = deque()
        """Sends that wait for a token, in order; a promise to a peer is not one before it is durable."""
        self._durable = 0
        self._deeds: dict[type, Callable[[Any], object]] = {
            effects.Send: self._send,
            effects.Reply: lambda effect: transport.reply(effect.client, effect.data),
            effects.Publish: lambda effect: transport.publish(effect.data),
            effects.Admit: lambda effect: transport.admit(effect.roll, effect.since),
            effects.Retire: lambda effect: retire(effect.code, effect.why),
            effects.Notice: lambda effect: LOG.warning("%s: %s", effect.code, effect.detail),
        }
        self._deeds.update(dict.fromkeys(_TO_DISK, store.perform))
        self._deeds.update(dict.fromkeys(_TO_AGENTS, agents.perform))

    def perform(self, wanted: Iterable[Effect]) -> None:
        deeds = self._deeds
        for effect in wanted:
            deeds[type(effect)](effect)

    def durable(self, token: int) -> None:
        """The disk has everything up to `token`: let go what waited for it."""
        self._durable = token
        held = self._held
        while held and held[0].after <= token:
            send = held.popleft()
            self._transport.send(send.to, send.channel, send.data)

    def _send(self, send: Send) -> None:
        if send.after > self._durable:
            self._held.append(send)
        else:
            self._transport.send(send.to, send.channel, send.data)
