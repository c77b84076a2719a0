"""Looks on. After every event it asks the invariants about what that event changed, and says at once what is broken."""

from hashlib import blake2b
from typing import Any

import msgspec

from mesh.durable import Configuration
from mesh.effects import Channel, Effect, Persist, Reply, Send, WriteLedger
from mesh.events import Event, PeerMessage, SnapshotInstalled
from mesh.ids import LogIndex, TaskId
from mesh.ledger.applied import Applied
from mesh.ledger.commands import Batch
from mesh.ledger.task import FINISHED
from mesh.messages import Accepted, AppendReply, Grants, TaskEnd, TasksEnded, Vote, VoteReply
from mesh.raft.configuration import decode
from mesh.raft.replica import Role
from mesh.sim import invariants_membership, invariants_queue, invariants_raft
from mesh.sim.coverage import Coverage
from mesh.sim.disk import Disk
from mesh.sim.history import History
from mesh.sim.machine import Machine
from mesh.sim.record import Applying, Record, Seen
from mesh.sim.violation import Violation
from mesh.wire.codec import decode_batch, decode_peer, decode_reply

_PRE_VOTE, _VOTE, _VOTE_REPLY, _APPEND_REPLY, _TIMEOUT_NOW, _GRANTS, _ACCEPTED, _TASKS_ENDED = 1, 3, 4, 6, 7, 30, 51, 54
"""Tags by which a message is recognised without decoding it: the second byte, after the array's length."""

COMMANDS_KIND = 1
TRACED_TOGETHER = 64
"""Events written into the trace at a time."""


class _Pending(msgspec.Struct):
    """An entry a node has applied during the event being handled."""

    index: int
    batch: Batch | None
    outcomes: bytes
    digest: bytes


class Checker:
    """The watcher of a run. Also the oracle: what clients were told is a promise from then on."""

    def __init__(self, coverage: Coverage, disks: dict[str, Disk], slots: dict[str, int]) -> None:
        self.record = Record(coverage)
        self.coverage = coverage
        self.history = History(coverage)
        self.trace = blake2b(digest_size=16)
        self.events = 0
        self._disks = disks
        self._slots = slots
        self._seen: dict[str, Seen] = {}
        self._pending: list[_Pending] = []
        self._untraced: list[tuple[int, str, str, list[Effect]]] = []
        self._encode = msgspec.msgpack.Encoder().encode

    # --- watcher ------------------------------------------------------------------------------------------------------

    def started(self, machine: Machine) -> None:
        """A process began: look at it afresh, and watch its ledger apply."""
        self._seen[machine.node_id] = seen = Seen()
        s = machine.node.raft._s
        if s.log.last_index < machine.disk.log.last_index:
            raise Violation("11 pointer order", f"{machine.node_id} starts with less than its disk holds")
        if s.term < machine.disk.log.term:
            raise Violation(
                "7 term never goes back", f"{machine.node_id} starts in term {s.term}, older than its disk's"
            )
        self._listen_to(machine.node.ledger)
        self._look(machine, seen)

    def stopped(self, machine: Machine) -> None:
        self._seen.pop(machine.node_id, None)

    def handled(self, machine: Machine, event: Event, effects: list[Effect]) -> None:
        """An event was handled: write it into the trace, and check what it changed."""
        self.events += 1
        node_id = machine.node_id
        kind = type(event)
        self._untraced.append((machine.handled_ms, node_id, kind.__name__, effects))
        if len(self._untraced) >= TRACED_TOGETHER:
            self._trace_now()
        seen = self._seen[node_id]
        s = machine.node.raft._s
        for effect in effects:
            if type(effect) is Persist:
                invariants_raft.log_matching(self.record, node_id, s, effect)
            elif type(effect) is WriteLedger:
                invariants_queue.same_rows_written(self.record, node_id, effect.write)
        if kind is PeerMessage:
            if event.data[1] == _PRE_VOTE:  # type: ignore[union-attr]  # `kind` is its type; mypy does not follow.
                invariants_raft.pre_vote_changes_nothing(node_id, seen, s, effects)
        elif kind is SnapshotInstalled and not s.is_voter:
            self.coverage.add("snapshot to a learner")
        log = s.log
        if (
            s.commit_index == seen.commit
            and log.last_index == seen.last
            and machine.node.ledger.applied_index == seen.applied
            and s.role is seen.role
            and s.term == seen.term
            and log.before_index == seen.first
            and log.configurations.latest is seen.configuration
        ):
            if s.role is Role.LEADER:
                invariants_raft.flow_is_bounded(node_id, s)
        else:
            self._look(machine, seen)

    def _trace_now(self) -> None:
        self.trace.update(self._encode(self._untraced))
        self._untraced.clear()

    def _look(self, machine: Machine, seen: Seen) -> None:
        """Everything that may have changed in a node since it was last seen."""
        node_id, s, record = machine.node_id, machine.node.raft._s, self.record
        ledger = machine.node.ledger
        applied = ledger.applied_index
        invariants_raft.never_backwards(node_id, seen, s, applied)
        is_leader = invariants_raft.is_leader(s)
        if s.term != seen.term or s.role is not seen.role:
            self._new_office(node_id, machine.mark, s, is_leader)
            seen.term, seen.role = s.term, s.role
        if is_leader:
            invariants_raft.flow_is_bounded(node_id, s)
        if s.commit_index != seen.commit:
            invariants_raft.committed_on_a_durable_quorum(record, node_id, s, seen, self._disks)
            for entry in invariants_raft.committed_never_changes(record, node_id, s, seen):
                configuration = decode(entry.data)
                assert configuration is not None, f"entry {entry.index} is committed and holds no configuration"
                invariants_membership.configuration_committed(record, entry.index, configuration, self._disks)
            seen.commit = s.commit_index
        log = s.log
        configurations = log.configurations
        if configurations.latest is not seen.configuration:
            invariants_membership.configuration_seen(node_id, s, seen, is_leader=is_leader)
            if configurations.index < seen.configuration_index:
                self.coverage.add("configuration rolled back")
            seen.configuration, seen.configuration_index = configurations.latest, configurations.index
        if applied != seen.applied or log.last_index != seen.last or log.before_index != seen.first:
            invariants_raft.pointers_in_order(node_id, s, machine.disk, applied)
            seen.last, seen.first = log.last_index, log.before_index
        if self._pending or applied != seen.applied:
            self._applied(node_id, ledger, seen)
            seen.applied = applied

    def _new_office(self, node_id: str, mark: str, s: Any, is_leader: bool) -> None:
        if is_leader:
            if s.term not in self.record.leaders:
                self.coverage.add("election won")
                if s.node_id not in s.log.configurations.voter_ids:
                    self.coverage.add("led without a vote")
            invariants_raft.one_leader_per_term(self.record, node_id, s)
            invariants_raft.elected_by_a_majority(self.record, node_id, mark, s)
            invariants_raft.leader_completeness(self.record, node_id, s)
        if s.term == 6:
            self.coverage.add("term beyond 5")

    # --- tables -------------------------------------------------------------------------------------------------------

    def _listen_to(self, ledger: Any) -> None:
        """Hear of every entry this ledger applies, and what came of it, entry by entry."""
        apply, skip, pending = ledger.apply, ledger.skip, self._pending

        def heard_apply(index: LogIndex, term: int, batch: Batch, data: bytes) -> Applied:
            applied: Applied = apply(index, term, batch, data)
            pending.append(_Pending(index, batch, bytes(applied.outcomes), ledger.digest))
            return applied

        def heard_skip(index: LogIndex, term: int, data: bytes) -> None:
            skip(index, term, data)
            pending.append(_Pending(index, None, b"", ledger.digest))

        for name, heard in (("apply", heard_apply), ("skip", heard_skip)):
            setattr(ledger, name, heard)

    def _applied(self, node_id: str, ledger: Any, seen: Seen) -> None:
        record, model = self.record, self.record.model
        pending, touched = list(self._pending), {}
        self._pending.clear()
        for step in pending:
            invariants_raft.same_state_at_same_index(record, node_id, step.index, step.digest)
            if step.index not in record.applied:
                self._catch_up(step.index - 1)
                ought = model.apply(step.index, step.batch)
                self.history.committed(model)
                if step.batch is not None:
                    record.limits.applied(model, step.batch, step.outcomes)
                    invariants_queue.outcomes_agree(model, step.batch, step.outcomes, ought)
                invariants_queue.leases_within_slots(model, step.index, self._slots)
                touched.update(model.touched)
                record.applied[step.index] = Applying(step.digest, step.outcomes)
        if ledger.applied_index != (pending[-1].index if pending else -1):
            # A table that was loaded or installed, not applied.
            invariants_raft.same_state_at_same_index(record, node_id, ledger.applied_index, ledger.digest)
            seen.needs_comparing = True
        if ledger.applied_index != model.index:
            return
        if seen.needs_comparing:
            invariants_queue.tables_agree(ledger, model, record)
            seen.needs_comparing = False
        elif touched:
            for task_id, ought_task in touched.items():
                invariants_queue.task_invariants(ledger, task_id, ought_task, model)
            invariants_queue.counts_conserved(ledger, model)

    def _catch_up(self, index: int) -> None:
        """Entries nobody was heard to apply, because whoever did was not listened to yet."""
        model = self.record.model
        while model.index < index:
            entry = self.record.committed[model.index + 1].entry
            batch = decode_batch(entry.data) if entry.kind == COMMANDS_KIND else None
            model.apply(entry.index, batch)
            self.history.committed(model)

    # --- messages -----------------------------------------------------------------------------------------------------

    def leaves(self, machine: Machine, send: Send) -> None:
        """A message leaves a node: what it promises must be on disk, or committed."""
        tag = send.data[1]
        node_id = machine.node_id
        if tag == _APPEND_REPLY:
            reply = decode_peer(send.data)
            if isinstance(reply, AppendReply) and reply.ok:
                invariants_raft.acked_is_durable(node_id, machine.disk, machine.node.raft._s, reply)
        elif tag in (_VOTE, _VOTE_REPLY):
            vote = decode_peer(send.data)
            if isinstance(vote, Vote) or (isinstance(vote, VoteReply) and vote.granted):
                invariants_raft.vote_is_durable(node_id, machine.disk, send.to, vote)
                invariants_raft.one_vote_per_term(self.record, node_id, machine.mark, send.to, vote)
        elif tag == _TIMEOUT_NOW and send.channel == Channel.CTL:
            self.coverage.add("leadership handed over")
        elif tag == _GRANTS and send.channel == Channel.DATA:
            grants = decode_peer(send.data)
            assert isinstance(grants, Grants)
            for order in grants.orders:
                invariants_queue.granted_before_sent(self.record, node_id, send.to, order)

    def replies(self, machine: Machine, reply: Reply) -> None:
        """A client is told something: it must be so already."""
        tag = reply.data[1]
        if tag == _ACCEPTED:
            accepted = decode_reply(reply.data)
            assert isinstance(accepted, Accepted)
            for task_id in accepted.task_ids:
                invariants_queue.acked_was_committed(self.record, task_id, accepted.index)
        elif tag == _TASKS_ENDED:
            ended = decode_reply(reply.data)
            assert isinstance(ended, TasksEnded)
            for end in ended.ends:
                invariants_queue.told_end_is_true(self.record, end)

    # --- oracle -------------------------------------------------------------------------------------------------------

    def accepted(self, task_id: TaskId, index: LogIndex) -> None:
        if task_id not in self.record.acked:
            self.record.acked[task_id] = index
            self.record.acked_order.append(task_id)

    def ended(self, end: TaskEnd) -> None:
        """Checked when it left the node; what is heard cannot be truer. A dead letter's end may not be its last."""
        if end.state in FINISHED:
            self.record.final[end.task_id] = end.state

    def is_acked(self, task_id: TaskId) -> bool:
        return task_id in self.record.acked

    def acked_ids(self) -> list[TaskId]:
        return self.record.acked_order

    def final_state(self, task_id: TaskId) -> int | None:
        return self.record.final.get(task_id)

    def committed_configuration(self) -> tuple[int, Configuration]:
        """The latest committed one with the index of its entry; an empty one before anybody has started."""
        known = self.record.configurations
        return known[-1] if known else (0, Configuration(()))

    # --- the end ------------------------------------------------------------------------------------------------------

    def finish(self, machines: list[Machine]) -> None:
        """All is quiet: every table must be the model's, whole."""
        for machine in machines:
            if machine.is_up and machine.node.ledger.applied_index == self.record.model.index:
                invariants_queue.tables_agree(machine.node.ledger, self.record.model, self.record)

    def trace_hash(self) -> str:
        """Of everything that happened: the same run, the same hash."""
        self._trace_now()
        return self.trace.hexdigest()
