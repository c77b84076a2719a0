"""Documents made from what a node knows: status, tasks, dead letters, events, explanations."""

from collections.abc import Iterable, Sequence
from itertools import chain

import msgspec

from mesh import documents
from mesh.config import NodeConfig
from mesh.dispatch.dispatcher import Dispatcher
from mesh.durable import Configuration
from mesh.gossip.detector import Detector
from mesh.gossip.members import Health
from mesh.ids import NodeId
from mesh.ledger.ledger import Ledger
from mesh.ledger.queue import POSITIONS_MAX
from mesh.ledger.task import (
    DEAD,
    DISPATCHED,
    FINISHED,
    KIND_NAMES,
    PAUSED,
    PENDING,
    RUNNING,
    SCHEDULED,
    STATE_NAMES,
    Happening,
    Kind,
    Task,
    TaskState,
)
from mesh.raft.replica import Replica
from mesh.wire.codec import Rubbish, decode_happenings, decode_value, encode

NIL = b"\xc0"
"""MessagePack's nil, where a task has no result or checkpoint."""


class Answers:
    """Reads of one node. Whether they are linearizable is decided by who calls, and when."""

    def __init__(
        self, config: NodeConfig, raft: Replica, ledger: Ledger, detector: Detector, dispatcher: Dispatcher
    ) -> None:
        self._config = config
        self._raft = raft
        self._ledger = ledger
        self._detector = detector
        self._dispatcher = dispatcher

    def status(self, now_ms: int, *, stale: bool, counters: dict[str, int]) -> documents.Status:
        raft = self._raft
        return documents.Status(
            version=1,
            cluster=self._config.cluster,
            leader=raft.leader_id,
            term=raft.term,
            commit_index=raft.commit_index,
            quorum=raft.leader_id is not None and (not stale or self._detector_sees_quorum()),
            stale=stale,
            nodes=self._nodes(now_ms),
            tasks=self._counts(),
            served_by=self._config.node_id,
            counters=counters,
        )

    def task(self, task: Task, *, stale: bool) -> documents.Task:
        spec = task.spec
        holder = task.node_id or task.lost_by
        return documents.Task(
            id=spec.task_id,
            capability=spec.capability,
            priority=spec.priority,
            state=STATE_NAMES[task.state],
            attempts=task.attempts,
            max_attempts=spec.max_attempts,
            node=holder or None,
            token=task.token,
            result=raw(task.result),
            error=task.error or None,
            checkpoint=raw(task.checkpoint),
            submitted_at=task.submitted_at_ms,
            finished_at=task.finished_at_ms or None,
            history=[history_item(happening) for happening in task.history],
            error_detail=task.detail,
            payload=raw(spec.payload),
            stale=stale,
            primary_error=task.primary_error or None,
            faults=[
                documents.Fault(fault.attempt, fault.node_id or None, fault.at_ms, fault.error, fault.detail)
                for fault in task.faults or ()
            ],
            parent=(spec.options.parent or None) if spec.options is not None else None,
        )

    def explanation(self, task: Task, at_ms: int) -> documents.Explanation:
        """Why a task is where it is, in words. What the nodes could do about it only a leader in office knows. `at_ms`:
        time in the log.
        """
        dispatcher = self._dispatcher
        dispatcher.refresh()
        is_waiting = task.state in (PENDING, SCHEDULED)
        verdicts, held_back = dispatcher.explanation(task, at_ms) if dispatcher.in_office and is_waiting else ([], [])
        is_early = task.state == SCHEDULED and task.not_before_ms > at_ms
        reason, summary, position = self._reason(task, verdicts, held_back, is_early=is_early)
        rejected: dict[str, int] = {}
        for verdict in verdicts:
            if not verdict.fits:
                rejected[verdict.filter] = rejected.get(verdict.filter, 0) + 1
        return documents.Explanation(
            id=task.spec.task_id,
            state=STATE_NAMES[task.state],
            reason=reason,
            summary=summary,
            position=position,
            next_attempt_at=task.not_before_ms if is_early else None,
            nodes=verdicts,
            history=[history_item(happening) for happening in task.history],
            rejected=rejected,
            held_back_by=held_back,
            holders=[happening.node_id for happening in task.history if happening.kind == Kind.TASK_DISPATCHED],
        )

    def _reason(
        self, task: Task, verdicts: list[documents.NodeVerdict], held_back: list[str], *, is_early: bool
    ) -> tuple[str, str, int | None]:
        if task.state in (DISPATCHED, RUNNING):
            return "running", f"It runs on {task.node_id} (attempt under token {task.token}).", None
        if task.state == DEAD:
            return "dead", f"It is a dead letter after {task.attempts} attempts: {task.error}", None
        if task.state == PAUSED:
            return "held", f"It is held until somebody says `retry` or `cancel`: {task.error}", None
        if task.state in FINISHED:
            return "finished", f"It has ended: {STATE_NAMES[task.state]}.", None
        if not self._dispatcher.in_office:
            return "waiting", "It waits; which nodes are free for it only the leader knows.", None
        capability = task.spec.capability
        if not any(capability in c.capabilities for c in self._dispatcher.candidates.values()):
            return "no_capability", f"No node offers the capability {capability!r}; it waits until one does.", None
        if is_early:
            return "scheduled", f"It waits for its time, after {task.attempts} attempts.", None
        position = self._ledger.queue.position(task)
        before = f"{position:,}" if position < POSITIONS_MAX else f"{POSITIONS_MAX:,} or more"
        if held_back:
            return "held_back", f"{before} tasks are before it, and it is held back: {'; '.join(held_back)}.", position
        if any(verdict.fits for verdict in verdicts):
            return "next", f"A node is free for it; {before} tasks are before it.", position
        whys = "; ".join(f"{verdict.node} {verdict.why}" for verdict in verdicts)
        return "no_free_node", f"{before} tasks are before it, and no node is free: {whys}.", position

    def raft_status(self) -> documents.RaftStatus:
        raft = self._raft
        configuration = raft.configuration
        trailing = {peer_id: (match, state) for peer_id, match, state in raft.peers()}
        peers = []
        for member in configuration.voters + configuration.learners:
            node_id = member.node_id
            match, state = trailing.get(node_id, (0, ""))
            if node_id == self._config.node_id:
                match, state = raft.last_index, "self"
            behind = max(0, raft.last_index - match) if state else 0
            role = role_in(configuration, node_id)
            peers.append(documents.RaftPeer(node_id, member.address, role, match, behind, state))
        return documents.RaftStatus(
            node=self._config.node_id,
            role=raft.role.name.lower(),
            leader=raft.leader_id,
            term=raft.term,
            commit_index=raft.commit_index,
            applied_index=self._ledger.applied_index,
            first_index=raft.first_index,
            last_index=raft.last_index,
            serving=raft.serving,
            digest=self._ledger.digest.hex(),
            peers=peers,
        )

    def _counts(self) -> documents.TaskCounts:
        counts = documents.TaskCounts()
        for state, count in enumerate(self._ledger.counts):
            name = "running" if state == DISPATCHED else STATE_NAMES[state]
            setattr(counts, name, getattr(counts, name) + count)
        return counts

    def _nodes(self, now_ms: int) -> list[documents.NodeView]:
        configuration = self._raft.configuration
        views = []
        for member in self._detector.members():
            node_id = member.node_id
            record = self._ledger.nodes.get(node_id)
            beat = member.last
            draining = (record is not None and record.draining) or (beat is not None and beat.draining)
            views.append(
                documents.NodeView(
                    id=node_id,
                    address=beat.address if beat is not None else member.address,
                    pid=beat.pid if beat is not None else 0,
                    role=role_in(configuration, node_id),
                    leader=node_id == self._raft.leader_id,
                    health=Health(member.health).name.lower(),
                    admin="left" if record is not None and record.left else "draining" if draining else "active",
                    capabilities=list(beat.capabilities) if beat is not None else [],
                    slots=beat.slots if beat is not None else 0,
                    running=len(self._ledger.holder_leases(node_id)),
                    last_heartbeat_ms=self._detector.silence_ms(node_id, now_ms),
                    incarnation=member.incarnation,
                    failure_count=record.failure_count if record is not None else 0,
                    trouble=beat.trouble if beat is not None else "",
                )
            )
        return views

    def _detector_sees_quorum(self) -> bool:
        voters = self._raft.configuration.voter_ids
        alive = [voter for voter in voters if self._detector.health(NodeId(voter)) != Health.FAILED]
        return len(alive) * 2 > len(voters)


def raw(data: bytes) -> msgspec.Raw:
    """One encoded value as part of a document. What is none, or more than one, is shown as the bytes it is: a client
    of any language may have sent it, and nobody has looked at it since.
    """
    if not data:
        return msgspec.Raw(NIL)
    try:
        decode_value(data)
    except Rubbish:
        return msgspec.Raw(encode(data))
    return msgspec.Raw(data)


def role_in(configuration: Configuration, node_id: NodeId) -> str:
    """What part a node has in the log: voter, learner, or (worker) none."""
    if node_id in configuration.voter_ids:
        return "voter"
    return "learner" if any(member.node_id == node_id for member in configuration.learners) else "worker"


def matches(task: Task, states: tuple[int, ...], capability: str) -> bool:
    """Whether a task belongs in a list. Asking for running ones includes those on their way to their node."""
    if states and task.state not in states and not (task.state == DISPATCHED and TaskState.RUNNING in states):
        return False
    return not capability or task.spec.capability == capability


def task_line(task: Task) -> documents.TaskLine:
    spec = task.spec
    return documents.TaskLine(
        spec.task_id, spec.capability, spec.priority, STATE_NAMES[task.state], task.attempts, task.node_id or None
    )


def history_item(happening: Happening) -> documents.HistoryItem:
    return documents.HistoryItem(
        happening.at_ms,
        KIND_NAMES[happening.kind],
        happening.node_id or None,
        happening.attempt,
        happening.token,
        happening.detail,
    )


def event_page(
    stored: Sequence[tuple[int, bytes]], recent: Sequence[tuple[int, list[Happening]]], after: int, limit: int
) -> documents.EventPage:
    """Events of the entries after `after`, from the store and then from memory: whole entries, `limit` events at most
    unless one entry alone has more. The cursor is the last entry shown.
    """
    lines: list[documents.EventLine] = []
    following = after
    for index, happenings in chain(((index, decode_happenings(data)) for index, data in stored), recent):
        if lines and len(lines) + len(happenings) > limit:
            break
        lines += event_lines(happenings)
        following = index
    return documents.EventPage(lines, str(following))


def event_lines(happenings: Iterable[Happening]) -> list[documents.EventLine]:
    return [
        documents.EventLine(
            happening.index,
            happening.at_ms,
            KIND_NAMES[happening.kind],
            happening.node_id or None,
            happening.task_id or None,
            happening.attempt,
            happening.token,
            happening.detail,
        )
        for happening in happenings
    ]
