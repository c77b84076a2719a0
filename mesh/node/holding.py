"""The node as a holder of leases: runs what it is granted, and tells the leader until the ledger has answered."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from mesh.effects import Channel, CheckpointKept, Send, StartAttempts, StopAttempts
from mesh.events import CheckpointOffered
from mesh.execution.attempts import Attempts
from mesh.ids import FencingToken, NodeId, TaskId
from mesh.ledger.applied import Applied, KeptCheckpoint
from mesh.ledger.task import DISPATCHED
from mesh.messages import (
    AttemptOrder,
    AttemptOutcome,
    CheckpointReport,
    Grants,
    Lease,
    NodeReport,
    Reports,
    ReportWanted,
    Started,
    Stops,
)
from mesh.wire.codec import encode

if TYPE_CHECKING:
    from mesh.node.node import Node


class Holding:
    """Leases of this node, and the conversation about them."""

    def __init__(self, node: Node) -> None:
        self._node = node
        self.attempts = Attempts()
        self.capabilities: tuple[str, ...] = ()
        self._resend_every_ms = node.config.dispatch.report_resend_ms
        self._resend_ms = node.now_ms + self._resend_every_ms
        self._waiting: list[AttemptOrder] = []
        """Granted, and no slot is free here, because what the leader knows to be over still runs."""
        self._sending: dict[TaskId, CheckpointReport] = {}
        """Checkpoints on their way to the log, one a task: later ones wait, and of those only the latest counts."""
        self._told_once: dict[str, int] = {}
        """Outcomes that were unanswered at the last look, by task, with their token."""

    # --- grants ---

    def on_grants(self, peer: NodeId, message: Grants) -> None:
        """Run what is granted, but for what our own ledger knows to be over."""
        if message.incarnation != self._node.config.incarnation:
            self._node.count("grants_for_past_incarnation", len(message.orders))
            return
        ledger = self._node.ledger
        applied = ledger.applied_index
        mine = ledger.holder_leases(self._node.node_id)
        orders: list[AttemptOrder] = []
        for order in message.orders:
            if order.token <= applied:
                task = mine.get(order.task_id)
                if task is None or task.token != order.token:
                    continue
            orders.append(order)
        to_start, to_stop = self.attempts.grant(message.term, orders)
        if to_stop:
            self._node.out.append(StopAttempts(to_stop))
        if to_start:
            self._start(to_start)

    def _start(self, orders: list[AttemptOrder]) -> None:
        """Run these, and those that wait, as far as there are slots."""
        to_start, self._waiting = self.attempts.hand_over(self._waiting + orders, self._node.config.slots)
        if to_start:
            self._node.out.append(StartAttempts(to_start))

    def on_stops(self, peer: NodeId, message: Stops) -> None:
        if message.term >= self.attempts.term_seen:
            self.stop(message.leases)

    def stop(self, leases: list[Lease]) -> None:
        """These leases are over: stop what runs under them."""
        stopped = self.attempts.stop(leases, self._is_open)
        if stopped:
            self._node.out.append(StopAttempts(stopped))

    def _is_open(self, task_id: TaskId, token: FencingToken) -> bool:
        """Whether our own ledger does not show, or not yet, that this lease of ours is over."""
        ledger = self._node.ledger
        if token > ledger.applied_index:
            return True
        task = ledger.holder_leases(self._node.node_id).get(task_id)
        return task is not None and task.token == token

    def on_report_wanted(self, peer: NodeId, message: ReportWanted) -> None:
        """A new leader: say what we hold, and say again what is unanswered. What is older than this counts no more."""
        if message.term < self.attempts.term_seen:
            return
        self.attempts.term_seen = message.term
        self._node.out.append(Send(peer, Channel.DATA, encode(self.report(message))))
        self.tell_unanswered()

    def report(self, wanted: ReportWanted) -> NodeReport:
        config = self._node.config
        attempts = self.attempts
        return NodeReport(
            wanted.term, config.incarnation, config.slots, self.capabilities, attempts.held(), attempts.begun()
        )

    # --- outcomes ---

    def end_turn(self) -> None:
        """Tell the leader what ended, or began to run, in this turn."""
        attempts = self.attempts
        if self._waiting:
            self._start([])
        if attempts.unsent or attempts.unsent_started:
            outcomes, started = attempts.take_unsent()
            self.send_reports(outcomes)
            self._send_started(started)

    def send_reports(self, outcomes: Sequence[AttemptOutcome]) -> None:
        """To whoever leads; if nobody does, they stay in the outbox until somebody asks."""
        node = self._node
        if not outcomes:
            return
        if node.leading.dispatcher.in_office:
            node.leading.dispatcher.report(outcomes)
            return
        leader = self._leader()
        if leader is None:
            return
        bytes_max = node.config.dispatch.message_bytes_max
        batch: list[AttemptOutcome] = []
        size = 0
        for outcome in outcomes:
            outcome_bytes = len(outcome.result) + len(outcome.detail) + 64
            if batch and size + outcome_bytes > bytes_max:
                node.out.append(Send(leader, Channel.DATA, encode(Reports(batch))))
                batch, size = [], 0
            batch.append(outcome)
            size += outcome_bytes
        node.out.append(Send(leader, Channel.DATA, encode(Reports(batch))))

    def _send_started(self, leases: list[Lease]) -> None:
        node = self._node
        if not leases:
            return
        if node.leading.dispatcher.in_office:
            node.leading.dispatcher.started(leases)
        elif (leader := self._leader()) is not None:
            node.out.append(Send(leader, Channel.DATA, encode(Started(leases))))

    def on_checkpoint(self, event: CheckpointOffered) -> None:
        """A handler waits until the ledger keeps this. An attempt not in hand any more is told no."""
        report = CheckpointReport(event.task_id, event.token, event.sequence, event.state)
        if self.attempts.checkpoint(report):
            sending = self._sending.get(report.task_id)
            if sending is None or sending.token != report.token:
                self._send_checkpoint(report)
        else:
            self._node.out.append(CheckpointKept(event.task_id, event.token, event.sequence, False))

    def _send_checkpoint(self, report: CheckpointReport) -> None:
        node = self._node
        self._sending[report.task_id] = report
        if node.leading.dispatcher.in_office:
            node.leading.dispatcher.checkpoint(report)
        elif (leader := self._leader()) is not None:
            node.out.append(Send(leader, Channel.DATA, encode(report)))

    def _leader(self) -> NodeId | None:
        """The node to tell; None if nobody leads, or we were elected and do not serve yet. Who takes office asks."""
        leader = self._node.raft.leader_id
        return None if leader == self._node.node_id else leader

    # --- answers ---

    def applied(self, applied: Applied) -> None:
        """What an entry means for the attempts that run here."""
        attempts = self.attempts
        if attempts.over:
            attempts.caught_up(self._is_open)
        if attempts.outbox:
            for task_id, token in applied.settled:
                attempts.settle(task_id, token)
        if applied.ended:
            mine = self._node.node_id
            self.stop([(lease.task_id, lease.token) for lease in applied.ended if lease.node_id == mine])
        if applied.checkpoints and (self._sending or attempts.checkpoints):
            for kept in applied.checkpoints:
                self._checkpoint_answered(kept)

    def _checkpoint_answered(self, kept: KeptCheckpoint) -> None:
        """The ledger has answered: its handler goes on, and what was offered meanwhile goes on its way."""
        attempts = self.attempts
        sent = self._sending.get(kept.task_id)
        is_ours = sent is not None and sent.token == kept.token and sent.sequence <= kept.sequence
        if is_ours:
            del self._sending[kept.task_id]
        if attempts.checkpoint_answered(kept.task_id, kept.token, kept.sequence) or is_ours:
            self._node.out.append(CheckpointKept(kept.task_id, kept.token, kept.sequence, kept.kept))
        later = attempts.checkpoints.get(kept.task_id)
        if is_ours and later is not None:
            self._send_checkpoint(later)

    def reconcile(self) -> None:
        """The table was replaced by the leader's: stop and forget what, by its word, is over."""
        ledger = self._node.ledger
        mine = ledger.holder_leases(self._node.node_id)
        applied = ledger.applied_index
        over = []
        for task_id, token in self.attempts.held():
            task = mine.get(task_id)
            if token <= applied and (task is None or task.token != token):
                over.append((task_id, token))
        self.stop(over)
        for report in list(self.attempts.checkpoints.values()):
            task = mine.get(report.task_id)
            is_kept = task is not None and task.checkpoint_sequence >= report.sequence
            if is_kept and self.attempts.checkpoint_answered(report.task_id, report.token, report.sequence):
                self._node.out.append(CheckpointKept(report.task_id, report.token, report.sequence, True))

    def leader_changed(self) -> None:
        """Tell the new leader at once what the old one may not have passed on."""
        self.tell_unanswered()
        self._tell_started()

    def tell_unanswered(self) -> None:
        """Outcomes and checkpoints the ledger has not answered, in so far as it shows."""
        self.send_reports(list(self.attempts.outbox.values()))
        self._tell_checkpoints()

    def next_deadline_ms(self) -> int | None:
        return self._resend_ms if self.attempts.outbox or self.attempts.running else None

    def tick(self, now_ms: int) -> None:
        """Say again what has stayed unanswered since the last look."""
        if now_ms < self._resend_ms:
            return
        self._resend_ms = now_ms + self._resend_every_ms
        waiting = self.attempts.checkpoints
        self._sending = {task_id: report for task_id, report in self._sending.items() if task_id in waiting}
        outbox = self.attempts.outbox
        told = self._told_once
        self.send_reports([outcome for task_id, outcome in outbox.items() if told.get(task_id) == outcome.token])
        self._told_once = {task_id: outcome.token for task_id, outcome in outbox.items()}
        self._tell_checkpoints()
        self._tell_started()

    def _tell_checkpoints(self) -> None:
        for report in self.attempts.checkpoints.values():
            self._send_checkpoint(report)

    def _tell_started(self) -> None:
        """Attempts whose user code runs, and of which the ledger does not show it yet."""
        mine = self._node.ledger.holder_leases(self._node.node_id)
        unknown = []
        for task_id, token in self.attempts.begun():
            task = mine.get(task_id)
            if task is not None and task.token == token and task.state == DISPATCHED:
                unknown.append((task_id, token))
        self._send_started(unknown)

    @property
    def running_count(self) -> int:
        return len(self.attempts.running)
