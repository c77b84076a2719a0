"""The replicated task table: same log in, same tasks out, on every node.

`apply` is total: every command in every state has an answer, and a refusal is a value. There is no clock and no dice
here; time is what the leader wrote into the entry. Its consequences (`Applied`) are hints: the leader acts on them,
followers do not, and a new leader derives what to do from the table.
"""

from collections.abc import Callable
from typing import Any

import msgspec

from mesh.ids import LogIndex, NodeId, TaskId, Term
from mesh.ledger import (
    commands,
    completion,
    crons,
    dead_letters,
    leasing,
    rulings,
    submission,
    timeouts,
    verdicts,
)
from mesh.ledger.applied import Applied
from mesh.ledger.digest import chain
from mesh.ledger.intake import Intake
from mesh.ledger.registry import Registry
from mesh.ledger.table import DIGESTS_MAX, OUT_OF_OFFICE, Table
from mesh.ledger.task import PENDING, SCHEDULED, Happening, NodeRecord, Task

_HANDLERS: dict[type, Callable[[Table, Any, int], int]] = {
    commands.SubmitTask: submission.submit,
    commands.GrantLease: leasing.grant,
    commands.StartTask: leasing.start,
    commands.SaveCheckpoint: leasing.checkpoint,
    commands.CompleteTask: completion.complete,
    commands.FailAttempt: completion.fail,
    commands.ReleaseLease: leasing.release,
    commands.CancelTask: completion.cancel,
    commands.RedriveTask: dead_letters.redrive,
    commands.DropDeadLetter: dead_letters.drop,
    commands.AdmitNode: verdicts.admit,
    commands.FailNode: verdicts.fail_node,
    commands.DrainNode: verdicts.drain,
    commands.ElectLeader: verdicts.elect,
    commands.LeaveNode: verdicts.leave,
    commands.RaiseLevel: rulings.raise_level,
    commands.TimeOut: timeouts.time_out,
    commands.Reprioritize: rulings.reprioritize,
    commands.SetSetting: rulings.change_setting,
    commands.PauseQueue: rulings.pause,
    commands.ResumeQueue: rulings.resume,
    commands.FallBack: rulings.fall_back,
    commands.CloseBreaker: rulings.close_breaker,
    commands.SetCron: crons.set_cron,
    commands.DropCron: crons.drop_cron,
    commands.FireCron: crons.fire_cron,
}


class Summary(msgspec.Struct, array_like=True):
    """What of the table is not a task: kept beside the rows in the ledger store."""

    nodes: list[NodeRecord]
    counts: list[int]
    finished_count: int
    at_ms: int
    registry: Registry = msgspec.field(default_factory=Registry)


class Changes(msgspec.Struct):
    """What the ledger store has not seen yet."""

    tasks: list[Task]
    forgotten: list[TaskId]
    events: list[tuple[int, list[Happening]]]


class Ledger(Table):
    """The table, and the one way to change it."""

    def apply(self, index: LogIndex, term: Term, batch: commands.Batch, data: bytes) -> Applied:
        """Apply one committed entry.

        Args:
            index: the entry's place in the log, one more than the last.
            term: its term.
            batch: its commands.
            data: the bytes the commands were decoded from, for the digest.

        Returns:
            What came of each command. Nothing in it may be changed.
        """
        assert index == self.applied_index + 1, f"entry {index} applied after {self.applied_index}"
        self.at_ms = max(self.at_ms, batch.at_ms)
        outcomes = bytearray()
        now = self.now = Applied(index, self.at_ms, outcomes)
        handlers = _HANDLERS
        for position, command in enumerate(batch.commands):
            outcomes.append(handlers[type(command)](self, command, position))
        if self.crons and now.finished:
            # What is submitted may drive out others, which end in turn. Each schedule does so once: no firing is made
            # to wait here.
            position = len(batch.commands)
            for task in now.finished:
                position += crons.last_ended(self, task, position)
        if self.fresh:
            self._queue_fresh()
        if now.events:
            self.event_batches.append((index, now.events))
        self._advance(index, term, data, outcomes)
        return now

    def skip(self, index: LogIndex, term: Term, data: bytes) -> None:
        """An entry that carries no commands (an own-term no-op, a configuration) still moves the digest on."""
        assert index == self.applied_index + 1, f"entry {index} applied after {self.applied_index}"
        self._advance(index, term, data, b"")

    def take_changes(self) -> Changes:
        """What changed since the last time, to be written behind. Coalesced: a task appears once, as it stands."""
        changes = Changes(list(self.changed.values()), self.forgotten, self.event_batches)
        self.changed = {}
        self.forgotten = []
        self.event_batches = []
        return changes

    def summary(self) -> Summary:
        nodes = list(self.nodes.values())
        return Summary(nodes, list(self.counts), self.finished_count, self.at_ms, self.registry())

    def restore(
        self,
        index: LogIndex,
        term: Term,
        digest: bytes,
        summary: Summary,
        intake: Intake,
    ) -> None:
        """Begin from a table found on disk or received from the leader, of which everything is there."""
        intake.complete(summary.finished_count)
        self.applied_index, self.applied_term, self.digest = index, term, digest
        self.digests = {index: digest}
        self.nodes = {node.node_id: node for node in summary.nodes}
        self.counts = list(summary.counts)
        self.at_ms = summary.at_ms
        self.register(summary.registry)
        self.load(intake, summary.finished_count)

    def is_admitted(self, node_id: NodeId, incarnation: int) -> bool:
        """Whether this very incarnation of a node may hold leases."""
        node = self.nodes.get(node_id)
        return node is not None and node.active and node.incarnation == incarnation

    def _queue_fresh(self) -> None:
        """Queue what was submitted and not granted in the same entry: most tasks never see the queue."""
        for task in self.fresh:
            if task.state == PENDING or task.state == SCHEDULED:
                self.queue.push(task)
        self.fresh.clear()

    def _advance(self, index: LogIndex, term: Term, data: bytes, outcomes: bytes | bytearray) -> None:
        self.digest = chain(self.digest, index, data, bytes(outcomes))
        self.digests[index] = self.digest
        self.digests.pop(index - DIGESTS_MAX, None)
        self.applied_index = index
        self.applied_term = term
        self.now = OUT_OF_OFFICE
