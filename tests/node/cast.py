"""Whole nodes in virtual time, for stories about a few of them.

Messages take a millisecond, disks two, tasks five; nothing is lost but what a story loses.
"""

import heapq
from dataclasses import replace
from random import Random
from typing import Any

from mesh import effects, events
from mesh.config import MembershipConfig, NodeConfig
from mesh.durable import Recovered
from mesh.events import Event
from mesh.ids import ClientId, NodeId, TaskId, Term
from mesh.messages import (
    Answer,
    Ask,
    AttemptOutcome,
    Order,
    SubmitTasks,
)
from mesh.node import Node
from mesh.wire.codec import decode_reply, encode

ANA, BEN, EVA = NodeId("ana"), NodeId("ben"), NodeId("eva")
CLIENT = ClientId(1)
FRESH = Recovered(None, [], Term(0), None, [], [], 0)
SEND_MS, DISK_MS, RUN_MS = 1, 2, 5


class Stage:
    """Nodes, the wires between them, and one client at ana."""

    def __init__(self, *founders: NodeId, wanted: int = 0) -> None:
        """`wanted` voters there are to be; none beyond the founders if it is not given."""
        self.now_ms = 1_000
        self.nodes: dict[NodeId, Node] = {}
        self.replies: list[object] = []
        self.ran: list[tuple[NodeId, TaskId]] = []
        self.slow_disks: set[NodeId] = set()
        self.marks: list[effects.WriteLedger] = []
        self.voters = tuple((name, f"{name}:1") for name in founders)
        self.membership = MembershipConfig(voters_wanted=wanted or len(founders), replace_after_ms=5_000)
        self.admits: dict[NodeId, effects.Admit] = {}
        self.retired: list[tuple[NodeId, effects.Retire]] = []
        self._coming: list[tuple[int, int, NodeId, Event]] = []
        self._count = 0
        for name in founders:
            self.start(name)
        self.run(2_000)

    def start(
        self, name: NodeId, capabilities: tuple[str, ...] = (), recovered: Recovered = FRESH, **config_fields: Any
    ) -> None:
        config = NodeConfig(
            node_id=name,
            cluster="c",
            incarnation=1,
            address=f"{name}:1",
            voters=self.voters,
            slots=2,
            membership=self.membership,
        )
        config = replace(config, **config_fields)
        self.nodes[name] = Node(config, recovered, Random(f"7/{name}"), self.now_ms)
        self.say(name, events.AgentsReady(capabilities))

    @property
    def leader(self) -> Node:
        (leader,) = (node for node in self.nodes.values() if node.raft.serving)
        return leader

    def ask(self, request: Order | Ask | SubmitTasks) -> None:
        self.say(ANA, events.ClientMessage(CLIENT, encode(request)))

    def answer(self) -> Answer:
        """The answer to the latest question or order."""
        return [reply for reply in self.replies if type(reply) is Answer][-1]

    def say(self, name: NodeId, event: Event) -> None:
        node = self.nodes[name]
        for one in (event, events.TurnEnded()):
            for effect in node.handle(one, self.now_ms):
                self._perform(name, effect)

    def run(self, duration_ms: int) -> None:
        until_ms = self.now_ms + duration_ms
        while True:
            due_ms, name = min((node.next_deadline_ms(), name) for name, node in self.nodes.items())
            coming_ms = self._coming[0][0] if self._coming else until_ms + 1
            if min(due_ms, coming_ms) > until_ms:
                self.now_ms = until_ms
                return
            self.now_ms = max(self.now_ms, min(due_ms, coming_ms))
            if coming_ms <= due_ms:
                _, _, name, event = heapq.heappop(self._coming)
                self.say(name, event)
            else:
                self.say(name, events.DeadlineReached())

    def _later(self, delay_ms: int, name: NodeId, event: Event) -> None:
        self._count += 1
        heapq.heappush(self._coming, (self.now_ms + delay_ms, self._count, name, event))

    def _perform(self, name: NodeId, effect: effects.Effect) -> None:
        match effect:
            case effects.Persist():
                self._later(9_000 if name in self.slow_disks else DISK_MS, name, events.Durable(effect.token))
            case effects.Send() if effect.to in self.nodes:
                self._later(
                    SEND_MS + (DISK_MS if effect.after else 0), effect.to, events.PeerMessage(name, effect.data)
                )
            case effects.Publish():
                for other in self.nodes:
                    if other != name:
                        self._later(SEND_MS, other, events.GossipReceived(effect.data))
            case effects.StartAttempts():
                self.ran += [(name, order.task_id) for order in effect.orders]
                outcomes = [AttemptOutcome(order.task_id, order.token, encode("done")) for order in effect.orders]
                self._later(RUN_MS, name, events.AttemptsEnded(outcomes))
            case effects.WriteLedger():
                self.marks.append(effect)
                self._later(DISK_MS, name, events.LedgerWritten(effect.write.mark.applied_index))
            case effects.Admit():
                self.admits[name] = effect
            case effects.Retire():
                self.retired.append((name, effect))
            case effects.Reply():
                self.replies.append(decode_reply(effect.data))
            case _:
                pass
