"""Going of one's own accord: no new work, leadership handed over, what runs is finished, the rest given back.

    serving --Leave--> draining --nothing held, time over--> departing --LeaveNode applied, patience over--> Retire

A lease given back is charged to nobody, and the departure is no failure.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from mesh.effects import Channel, Retire, Send
from mesh.events import Leave
from mesh.ids import NodeId
from mesh.ledger.commands import LeaveNode
from mesh.messages import Departing
from mesh.wire.codec import encode

if TYPE_CHECKING:
    from mesh.node.node import Node

LEAVE_PROTOCOL = 2
"""Since when there is a command for it."""
LOOK_MS = 50
"""Pause between two looks at what is still held, or still to be committed."""
PATIENCE_MS = 2_000
"""A mesh that has not agreed to our departure by then will find out by itself."""


class Leaving:
    """This node's way out, once it was asked to go."""

    def __init__(self, node: Node) -> None:
        self._node = node
        self.is_leaving = False
        self._deadline_ms = 0
        self._departs_ms: int | None = None
        self._look_ms: int | None = None

    def asked(self, event: Leave) -> None:
        """Begin to go. Asked again with less time, go sooner."""
        node = self._node
        deadline_ms = node.now_ms + event.within_ms
        self._deadline_ms = min(self._deadline_ms, deadline_ms) if self.is_leaving else deadline_ms
        if not self.is_leaving:
            self.is_leaving = True
            self._look_ms = node.now_ms
            node.publish()

    def next_deadline_ms(self) -> int | None:
        return self._look_ms

    def tick(self, now_ms: int) -> None:
        """Look how far it is."""
        if self._look_ms is None or now_ms < self._look_ms:
            return
        self._look_ms = now_ms + LOOK_MS
        node = self._node
        if self._hands_over() and now_ms < self._deadline_ms:
            return
        attempts = node.holding.attempts
        is_idle = not attempts.running and not attempts.outbox
        if self._departs_ms is None and (is_idle or now_ms >= self._deadline_ms):
            self._departs_ms = now_ms
        if self._departs_ms is None:
            return
        record = node.ledger.nodes.get(node.node_id)
        is_agreed = record is None or record.left
        if is_agreed or now_ms >= self._departs_ms + PATIENCE_MS:
            self._look_ms = None
            node.out.append(Retire(0, "It has left the mesh, as it was told."))
        else:
            self._depart()

    def _hands_over(self) -> bool:
        """Whether we lead, and another could that stays."""
        raft, heirs = self._node.raft, self._node.membership.heirs()
        if not raft.serving or not heirs:
            return False
        raft.transfer(heirs[0], self._node.now_ms)
        return True

    def _depart(self) -> None:
        """Tell the leader, which may be ourselves for want of another."""
        node = self._node
        departing = Departing(node.config.incarnation)
        leader = node.raft.leader_id
        if node.leading.dispatcher.in_office:
            self.on_departing(node.node_id, departing)
        elif leader is not None and leader != node.node_id:
            node.out.append(Send(leader, Channel.DATA, encode(departing)))

    def on_departing(self, peer: NodeId, message: Departing) -> None:
        """As leader: a node goes. While any node here is of the release before, which has no word for it, the node
        simply goes, and its silence is noticed.
        """
        node = self._node
        record = node.ledger.nodes.get(peer)
        if not node.leading.dispatcher.in_office or record is None or record.left:
            return
        if all(member.last is None or member.last.protocol >= LEAVE_PROTOCOL for member in node.detector.members()):
            node.leading.dispatcher.urgent(LeaveNode(peer, message.incarnation))
