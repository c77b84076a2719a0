"""The node as leader: takes office, proposes, hands out leases, judges nodes; and leaves office without a trace.

Effects of what is applied are performed by the leader alone. A new one derives them from the table: it asks every node
what it runs, grants again what never arrived, and stops what is over.
"""

from __future__ import annotations

from random import Random
from typing import TYPE_CHECKING

from mesh.dispatch import calendar, verdicts
from mesh.dispatch.dispatcher import Dispatcher
from mesh.durable import Entry, EntryKind
from mesh.effects import Channel, Send
from mesh.gossip.detector import Change
from mesh.gossip.members import Health
from mesh.ids import LogIndex, NodeId, Term
from mesh.ledger.applied import Applied
from mesh.ledger.commands import Batch, ElectLeader, RaiseLevel
from mesh.messages import (
    AttemptOrder,
    CheckpointReport,
    Grants,
    Lease,
    NodeReport,
    Reports,
    ReportWanted,
    Started,
    Stops,
)
from mesh.node.admitting import Room
from mesh.wire.codec import decode_batch, encode

if TYPE_CHECKING:
    from mesh.node.node import Node


class Leading:
    """One node's terms of office, one after another."""

    def __init__(self, node: Node, rng: Random) -> None:
        self._node = node
        self._rng = rng
        self.dispatcher = Dispatcher(node.config, node.ledger, node.detector, rng)
        self._firing: dict[str, int] = {}
        """Schedules that were proposed to fire, and for when that was due."""
        self._level_ms = 0
        """Not before then is another level proposed."""
        self._proposed: dict[LogIndex, tuple[Term, Batch]] = {}
        """Entries of this office not yet applied, as they were before encoding: the leader need not decode its own."""
        self._deciding: dict[NodeId, int] = {}
        """Verdicts on their way, with the time they were proposed at."""
        self._reasons: dict[NodeId, str] = {}
        self._mismatches: dict[NodeId, int] = {}
        """Heartbeats in a row in which a node held another number of leases than the table says."""
        self._term = Term(0)
        self._taken_ms = 0
        """When office was taken, and how far time in the log was ahead of our clock then."""
        self._ahead_ms = 0

    # --- office ---

    def check(self) -> None:
        """Take or leave office, as Raft says."""
        raft = self._node.raft
        serving = raft.serving
        if self.dispatcher.in_office and not (serving and raft.term == self._term):
            self.leave()
        if serving and not self.dispatcher.in_office:
            self._take()

    def _take(self) -> None:
        node = self._node
        self._term = node.raft.term
        self._taken_ms = node.now_ms
        self._ahead_ms = max(0, node.ledger.at_ms - node.now_ms - node.config.epoch_ms)
        self.dispatcher.take_office()
        self.judge()
        self.dispatcher.urgent(ElectLeader(node.node_id, self._term))
        self.ask_reports()
        self._node.clients.take_office()

    def leave(self) -> None:
        self.dispatcher.leave_office()
        self._proposed.clear()
        self._deciding.clear()
        self._mismatches.clear()
        self._firing.clear()
        self._level_ms = 0
        self._node.many.leave_office()
        self._node.clients.leave_office()
        self._node.membership.leave_office()
        self._node.out.extend(self._node.transfers.close_all())

    def next_deadline_ms(self) -> int | None:
        """When the leader has something to propose of itself: a task's time comes, a limit passes, a schedule is due, a
        rate lets one go.
        """
        dispatcher = self.dispatcher
        if not dispatcher.in_office:
            return None
        node = self._node
        dues_ms = (
            node.ledger.queue.next_due_ms(),
            dispatcher.deadlines.next_due_ms(),
            dispatcher.wake_ms,
            self._next_firing_ms(),
        )
        due_ms = min((due_ms for due_ms in dues_ms if due_ms is not None), default=None)
        if due_ms is None or len(self._proposed) >= node.config.dispatch.entries_in_flight_max:
            return None  # What is on its way makes a turn when it is applied.
        return node.now_ms + max(due_ms - self.log_ms(), 1)

    # --- proposing ---

    def end_turn(self) -> None:
        """Put what was gathered, and grants for free slots, into the next entries, if few enough are on their way."""
        node = self._node
        read_id = node.clients.waiting.take_asked()
        if read_id and not node.raft.read(read_id, node.now_ms):
            node.clients.read_failed(read_id)
        dispatcher = self.dispatcher
        if dispatcher.in_office and node.ledger.crons:
            self._fire_crons()
        while dispatcher.in_office and len(self._proposed) < node.config.dispatch.entries_in_flight_max:
            at_ms = self.log_ms()
            commands = dispatcher.next_commands(at_ms)
            if not commands:
                return
            batch = Batch(at_ms, commands)
            index = node.raft.propose(EntryKind.COMMANDS, encode(batch), node.now_ms)
            if index is None:
                dispatcher.proposal_refused(commands)
                return
            self._proposed[index] = (self._term, batch)

    def _next_firing_ms(self) -> int | None:
        """When (epoch) a schedule is due next. While there is no room for what it submits, that is not looked for: what
        makes room makes a turn.
        """
        node = self._node
        if not node.ledger.crons or not Room(node).has_any:
            return None
        return calendar.next_due_ms(node.ledger.crons, self._firing)

    def _fire_crons(self) -> None:
        """What schedules submit needs room like everything else: without it they are late, and lost never."""
        if not Room(self._node).has_any:
            return
        for firing in calendar.due(self._node.ledger.crons, self.log_ms(), self._rng, self._firing):
            self.dispatcher.command(firing)

    def _raise_level(self) -> None:
        """Once every node that is there can apply a later level of the ledger, it is agreed on: from then on there is
        no going back to a release that cannot.
        """
        node = self._node
        if node.ledger.level >= node.config.level or node.now_ms < self._level_ms:
            return
        for member in node.detector.members():
            if member.health is not Health.FAILED and (member.last is None or member.last.levels < node.config.level):
                return
        self._level_ms = node.now_ms + node.config.gossip.heartbeat_interval_ms
        self.dispatcher.urgent(RaiseLevel(node.config.level))

    def log_ms(self) -> int:
        """Time in the log now. If an earlier leader's clock was ahead of ours, it goes on from there at 9/10 of its
        pace until ours has caught up: it never goes back, and it never stands, or what waits for its time would wait as
        long as the clocks differ.
        """
        node = self._node
        ahead_ms = max(0, self._ahead_ms - (node.now_ms - self._taken_ms) // 10)
        return max(node.now_ms + node.config.epoch_ms + ahead_ms, node.ledger.at_ms)

    def batch_of(self, entry: Entry) -> Batch:
        """The commands of a committed entry: remembered if this office made it, else decoded."""
        proposed = self._proposed.pop(entry.index, None)
        if proposed is not None and proposed[0] == entry.term:
            return proposed[1]
        return decode_batch(entry.data)

    def applied(self, applied: Applied, batch: Batch) -> None:
        """An entry was applied while in office: hand out the leases it granted, and answer whoever waited for it."""
        granted = self.dispatcher.applied(applied, batch.commands)
        stops: dict[NodeId, list[Lease]] = {}
        for ended in applied.ended:
            if ended.node_id != self._node.node_id:
                stops.setdefault(ended.node_id, []).append((ended.task_id, ended.token))
        for holder, leases in stops.items():
            self._send_stops(holder, leases)  # Its own copy of the log would tell it, perhaps much later.
        for holder, orders in granted.items():
            self._send_grants(holder, orders)
        self._node.clients.applied(applied, batch.commands)
        self._node.many.applied(applied, batch.commands)
        if applied.nodes_changed:
            self._deciding.clear()
            self.judge()
            self.ask_reports()

    def _send_grants(self, holder: NodeId, orders: list[AttemptOrder]) -> None:
        node = self._node
        # A lease belongs to the incarnation the table knows, not to one that was heard of since.
        incarnation = node.ledger.nodes[holder].incarnation
        if holder == node.node_id:
            node.holding.on_grants(holder, Grants(self._term, node.config.incarnation, orders))
            return
        bytes_max = node.config.dispatch.message_bytes_max
        batch: list[AttemptOrder] = []
        size = 0
        for order in orders:
            order_bytes = len(order.payload) + len(order.checkpoint) + 64
            if batch and size + order_bytes > bytes_max:
                node.out.append(Send(holder, Channel.DATA, encode(Grants(self._term, incarnation, batch))))
                batch, size = [], 0
            batch.append(order)
            size += order_bytes
        node.out.append(Send(holder, Channel.DATA, encode(Grants(self._term, incarnation, batch))))

    # --- what nodes say ---

    def on_reports(self, peer: NodeId, message: Reports) -> None:
        if self.dispatcher.in_office:
            self.dispatcher.report(message.outcomes)

    def on_started(self, peer: NodeId, message: Started) -> None:
        if self.dispatcher.in_office:
            self.dispatcher.started(message.leases)

    def on_checkpoint_report(self, peer: NodeId, message: CheckpointReport) -> None:
        if self.dispatcher.in_office:
            self.dispatcher.checkpoint(message)

    def on_node_report(self, peer: NodeId, message: NodeReport) -> None:
        """A node says what it holds: send again what never arrived, stop what is over."""
        if not self.dispatcher.in_office or message.term != self._term:
            return
        again, over = self.dispatcher.node_report(peer, message)
        if again:
            self._send_grants(peer, again)
        if over:
            self._send_stops(peer, over)
            if peer != self._node.node_id and peer in self.dispatcher.unreported():
                self.ask_report(peer)  # Nothing is granted to it before it says that those have stopped.

    def _send_stops(self, peer: NodeId, leases: list[Lease]) -> None:
        if peer == self._node.node_id:
            self._node.holding.stop(leases)
        else:
            self._node.out.append(Send(peer, Channel.DATA, encode(Stops(self._term, leases))))

    def ask_reports(self) -> None:
        """Ask nodes that are admitted and have not yet told this office what they run."""
        for node_id in self.dispatcher.unreported():
            self.ask_report(node_id)

    def ask_report(self, node_id: NodeId) -> None:
        node = self._node
        wanted = ReportWanted(self._term)
        if node_id == node.node_id:
            node.holding.attempts.term_seen = max(node.holding.attempts.term_seen, self._term)
            self.on_node_report(node_id, node.holding.report(wanted))
            if node_id in self.dispatcher.unreported():  # It held what is over, and has stopped it.
                self.on_node_report(node_id, node.holding.report(wanted))
            node.holding.tell_unanswered()
        else:
            node.out.append(Send(node_id, Channel.DATA, encode(wanted)))

    # --- what gossip says ---

    def heard(self, node_id: NodeId, held_total: int) -> None:
        """A heartbeat: if it twice holds another number of leases than the table says, look closer."""
        dispatcher = self.dispatcher
        if not dispatcher.in_office:
            return
        dispatcher.refresh()
        if len(self._node.ledger.holder_leases(node_id)) == held_total:
            self._mismatches.pop(node_id, None)
            return
        count = self._mismatches.get(node_id, 0) + 1
        self._mismatches[node_id] = count
        if count >= 2:
            self._mismatches.pop(node_id)
            self.ask_report(node_id)

    def changed(self, changes: list[Change]) -> None:
        """Some nodes' health changed."""
        for change in changes:
            if change.after == Health.FAILED:
                self._reasons[change.node_id] = change.why
        if changes and self.dispatcher.in_office:
            self.dispatcher.refresh()
            self.judge()

    def judge(self) -> None:
        """Propose what detector and table differ about. Repeated with every heartbeat, since a proposal can be lost."""
        if not self.dispatcher.in_office:
            return
        node = self._node
        self._raise_level()
        again_ms = node.config.gossip.heartbeat_interval_ms
        for verdict in verdicts.due(node.ledger, node.detector, self._reasons):
            proposed_ms = self._deciding.get(verdict.node_id)
            if proposed_ms is None or node.now_ms - proposed_ms >= again_ms:
                self._deciding[verdict.node_id] = node.now_ms
                self.dispatcher.urgent(verdict)

    def rebalance(self) -> int:
        """Give back leases that were not started, where load is uneven (S0-26). Returns how many."""
        slots = {
            candidate.node_id: candidate.slots
            for candidate in self.dispatcher.candidates.values()
            if candidate.is_eligible
        }
        releases = verdicts.moves(self._node.ledger, slots)
        for release in releases:
            self.dispatcher.command(release)
        return len(releases)
