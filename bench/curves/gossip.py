"""Heartbeats among hundreds of nodes, without any: one node's detector is fed what all the others would say.

Real heartbeats, encoded and decoded as on the wire, and the real detector, driven in simulated time as a node drives
it: whatever is heard is judged at once. What sockets cost is not in it.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Sequence

from bench.curves.records import GossipPoint
from mesh.config import GossipConfig
from mesh.gossip import Detector, Health
from mesh.ids import Incarnation, LogIndex, NodeId, Term
from mesh.messages import Heartbeat, PeerView
from mesh.wire.codec import decode_heartbeat, encode

CLUSTER = "curves"
BEATS = 3
WAY_MS = 1
"""How long a heartbeat travels."""


def measure(nodes: int) -> GossipPoint:
    """One point, for a mesh of so many nodes (3 at least)."""
    one = _Watcher(nodes)
    beats = [[one.beat_of(peer, sequence) for peer in one.peers] for sequence in range(1, BEATS + 1)]
    started = time.process_time()
    for data in beats:
        one.hear(data)
        one.pass_ms(one.config.beat_ms)
    hear_s = time.process_time() - started
    beat_bytes = max(len(data) for data in beats[-1])
    heard_bytes = sum(len(data) for data in beats[-1])
    say_s = one.say()
    broken_ms, broken_s = one.links_break()
    return GossipPoint(
        nodes=nodes,
        beat_bytes=beat_bytes,
        heard_bytes=heard_bytes,
        say_cpu_ms=round(say_s * 1e3, 3),
        hear_cpu_ms=round(hear_s / BEATS * 1e3, 2),
        silent_ms=_Watcher(nodes).falls_silent(),
        broken_ms=broken_ms,
        broken_cpu_ms=round(broken_s * 1e3, 1),
    )


class _Watcher:
    """The first node of many, and what it is told."""

    def __init__(self, nodes: int) -> None:
        self.names = [NodeId(f"node-{number:04d}") for number in range(nodes)]
        self.peers = self.names[1:]
        # In the middle of every list that is searched for it.
        self.victim = self.names[nodes // 2]
        self.config = GossipConfig()
        self.now_ms = 1_000
        members = [(name, _address(number)) for number, name in enumerate(self.names)]
        self.detector = Detector(self.config, self.names[0], CLUSTER, members, self.now_ms)
        self.failed_ms: list[int] = []
        """When the victim was given up, each time."""
        for peer in self.peers:
            self.detector.link_up(peer, Incarnation(1), self.now_ms)

    def beat_of(self, speaker: NodeId, sequence: int, *, lost: NodeId | None = None) -> bytes:
        """What one of the others says when all is well with everybody, its link to `lost` excepted."""
        views = [PeerView(name, 1, Health.HEALTHY, name != lost) for name in self.names if name != speaker]
        return encode(_heartbeat(speaker, self.names.index(speaker), sequence, tuple(views)))

    def hear(self, beats: Iterable[bytes]) -> None:
        """Take heartbeats as a node does: each is decoded, entered, and everybody is judged."""
        for data in beats:
            self.detector.heard(decode_heartbeat(data), self.now_ms)
            self._judge()

    def pass_ms(self, ms: int) -> None:
        """Time passes; whatever is due within it is judged when it is due."""
        until_ms = self.now_ms + ms
        while (due_ms := self.detector.next_deadline_ms()) is not None and due_ms <= until_ms:
            self.now_ms = max(self.now_ms, due_ms)
            self._judge()
        self.now_ms = until_ms

    def say(self) -> float:
        """CPU seconds of putting together and encoding our own heartbeat."""
        started = time.process_time()
        for sequence in range(BEATS):
            encode(_heartbeat(self.names[0], 0, sequence, self.detector.views()))
        return (time.process_time() - started) / BEATS

    def links_break(self) -> tuple[int, float]:
        """All lose their links to one node at once, and say so. Simulated ms and CPU seconds to the verdict."""
        news = [self.beat_of(peer, BEATS + 1, lost=self.victim) for peer in self.peers if peer != self.victim]
        broken_ms, started = self.now_ms, time.process_time()
        self.detector.link_down(self.victim, self.now_ms)
        self.pass_ms(WAY_MS)
        self.hear(news)
        self.pass_ms(self.config.link_grace_ms)
        return self.failed_ms[-1] - broken_ms, time.process_time() - started

    def falls_silent(self) -> int:
        """One node is paused just after a heartbeat while the others go on. Simulated ms to the verdict."""
        self.hear([self.beat_of(self.victim, 1)])
        last_ms = self.now_ms
        others = [peer for peer in self.peers if peer != self.victim]
        for sequence in range(1, self.config.failure_threshold + 2):
            self._hear_unjudged(others, sequence)
            self.pass_ms(self.config.beat_ms)
        return self.failed_ms[-1] - last_ms

    def _hear_unjudged(self, speakers: Sequence[NodeId], sequence: int) -> None:
        """Heartbeats that say nothing of links: this is about silence alone, and their size does not matter."""
        for speaker in speakers:
            self.detector.heard(_heartbeat(speaker, self.names.index(speaker), sequence, ()), self.now_ms)

    def _judge(self) -> None:
        for change in self.detector.tick(self.now_ms):
            if change.node_id == self.victim and change.after is Health.FAILED:
                self.failed_ms.append(self.now_ms)


def _address(number: int) -> str:
    return f"10.0.{number // 250}.{number % 250 + 1}:21000"


def _heartbeat(name: NodeId, number: int, sequence: int, views: tuple[PeerView, ...]) -> Heartbeat:
    """With what an ordinary node says of itself."""
    return Heartbeat(
        cluster=CLUSTER,
        node_id=name,
        incarnation=1,
        sequence=sequence,
        address=_address(number),
        pid=4_000 + number,
        slots=10,
        running=0,
        draining=False,
        capabilities=("code", "search"),
        labels=(("zone", "a"),),
        held=(),
        held_total=0,
        term=Term(3),
        leader=name,
        commit=LogIndex(812_000),
        applied=LogIndex(812_000),
        digest=bytes(16),
        views=views,
        mark="0123456789abcdef",
    )
