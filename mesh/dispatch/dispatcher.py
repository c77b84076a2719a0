"""The leader's desk: commands gathered for the next entry, and tasks matched with free slots.

Volatile, and only while in office. A batch is made at the end of a turn, when few enough entries are on their way:
what arrives meanwhile shares the next one. Slots are counted as `leases in the table + grants proposed - reports
proposed`, so that a slot is filled again in the very entry that frees it, and never twice.
"""

from collections import deque
from collections.abc import Sequence
from random import Random

import msgspec

from mesh.config import COMMANDS_PER_ENTRY_MAX, NodeConfig
from mesh.dispatch.placement import Candidate, Placement
from mesh.gossip.detector import Detector
from mesh.gossip.members import Health
from mesh.ids import FencingToken, NodeId, TaskId
from mesh.ledger.applied import DONE, Applied
from mesh.ledger.commands import (
    Command,
    CompleteTask,
    FailAttempt,
    GrantLease,
    SaveCheckpoint,
    StartTask,
    SubmitTask,
)
from mesh.ledger.ledger import Ledger
from mesh.ledger.task import DISPATCHED, RUNNING, SCHEDULED, Task
from mesh.messages import AttemptOrder, AttemptOutcome, CheckpointReport, Lease, NodeReport, TaskSpec


class Reporting(msgspec.Struct, frozen=True, gc=False):
    """A report on its way through the log."""

    token: FencingToken
    node_id: NodeId


class Dispatcher:
    """One term of office at a time."""

    def __init__(self, config: NodeConfig, ledger: Ledger, detector: Detector, rng: Random) -> None:
        self._config = config
        self.ledger = ledger
        self._detector = detector
        self._rng = rng
        self._placement = Placement()
        self._commands: deque[Command] = deque()
        self._specs: deque[TaskSpec] = deque()
        self._granting: dict[TaskId, NodeId] = {}
        self._unplaced: dict[TaskId, str] = {}
        """Submits proposed without a grant, by capability: until they are applied they are in no queue, and nobody may
        overtake them.
        """
        self._reporting: dict[TaskId, Reporting] = {}
        self._reported: dict[NodeId, int] = {}
        self.candidates: dict[NodeId, Candidate] = {}
        self._by_capability: dict[str, list[Candidate]] = {}
        self._offered: dict[str, None] = {}
        """What any of the candidates can do."""
        self.in_office = False

    # --- office ---

    def take_office(self) -> None:
        """Begin with what the table says; grant to a node once it has reported what it runs."""
        assert not self.in_office, "office is taken once a term"
        self.in_office = True
        self.refresh()

    def leave_office(self) -> None:
        """Forget everything proposed: the next leader, who may be this node, derives it anew."""
        self.in_office = False
        self._commands.clear()
        self._specs.clear()
        granting, self._granting = self._granting, {}
        for task_id in granting:
            self._put_back(task_id)
        self._unplaced.clear()
        self._reporting.clear()
        self._reported.clear()

    def refresh(self) -> None:
        """Nodes, their health, slots or capabilities changed: look at all of them again."""
        if not self.in_office:
            return
        before, self.candidates = self.candidates, {}
        for member in self._detector.members():
            node_id = member.node_id
            candidate = before.get(node_id) or Candidate(node_id)
            record = self.ledger.nodes.get(node_id)
            if record is None or not record.active:
                self._reported.pop(node_id, None)  # Given up: it may run on, so it is asked again before it gets more.
            heartbeat = member.last
            if heartbeat is not None:
                candidate.slots = heartbeat.slots
                candidate.capabilities = frozenset(heartbeat.capabilities)
            candidate.health = Health(member.health).name.lower()
            candidate.admitted = self.ledger.is_admitted(node_id, member.incarnation)
            candidate.draining = (record is not None and record.draining) or (
                heartbeat is not None and heartbeat.draining
            )
            candidate.reported = self._reported.get(node_id) == member.incarnation
            candidate.load = self._count_load(node_id)
            self.candidates[node_id] = candidate
        self._by_capability.clear()
        candidates = self.candidates.values()
        self._offered = {name: None for candidate in candidates for name in sorted(candidate.capabilities)}

    def unreported(self) -> list[NodeId]:
        """Nodes that are admitted and have not told this leader what they run."""
        return [
            candidate.node_id for candidate in self.candidates.values() if candidate.admitted and not candidate.reported
        ]

    def _count_load(self, node_id: NodeId) -> int:
        load = len(self.ledger.holder_leases(node_id))
        load += sum(1 for holder in self._granting.values() if holder == node_id)
        return load - sum(1 for reporting in self._reporting.values() if reporting.node_id == node_id)

    def _put_back(self, task_id: TaskId) -> None:
        """A task taken from the queue was not granted after all."""
        task = self.ledger.tasks.get(task_id)
        if task is not None and task.state <= SCHEDULED:
            self.ledger.queue.push(task)

    # --- what is gathered ---

    @property
    def gathered(self) -> int:
        """Commands and submits waiting for the next entry."""
        return len(self._commands) + len(self._specs)

    def submit(self, spec: TaskSpec) -> None:
        self._specs.append(spec)

    def command(self, command: Command) -> None:
        self._commands.append(command)

    def urgent(self, command: Command) -> None:
        """A verdict or the like goes before what is gathered already."""
        self._commands.appendleft(command)

    def report(self, outcomes: Sequence[AttemptOutcome]) -> None:
        """Attempts that ended. One on its way already is not proposed twice; a stale one is proposed, to be put on
        record.
        """
        for outcome in outcomes:
            task_id, token = outcome.task_id, outcome.token
            if token <= 0:
                continue  # Nobody was ever granted that; a task that waits for its first grant has it.
            reporting = self._reporting.get(task_id)
            if reporting is not None and reporting.token >= token:
                continue
            task = self.ledger.tasks.get(task_id)
            if task is not None and task.token == token and task.state in (DISPATCHED, RUNNING) and reporting is None:
                self._reporting[task_id] = Reporting(token, task.node_id)
                candidate = self.candidates.get(task.node_id)
                if candidate is not None:
                    candidate.load -= 1
            if outcome.error:
                jitter = self._rng.randrange(101)
                failure = FailAttempt(task_id, token, outcome.error, outcome.detail, jitter, outcome.final)
                self._commands.append(failure)
            else:
                self._commands.append(CompleteTask(task_id, token, outcome.result))

    def started(self, leases: Sequence[Lease]) -> None:
        """Attempts whose user code runs."""
        tasks = self.ledger.tasks
        for task_id, token in leases:
            task = tasks.get(task_id)
            if task is None or task.token != token or task.state == DISPATCHED:
                self._commands.append(StartTask(task_id, token))

    def checkpoint(self, report: CheckpointReport) -> None:
        """One the table has already is not proposed again: its holder learns of it from its own copy."""
        task = self.ledger.tasks.get(report.task_id)
        if task is not None and task.token == report.token and task.checkpoint_sequence >= report.sequence:
            return
        self._commands.append(SaveCheckpoint(report.task_id, report.token, report.sequence, report.state))

    def node_report(self, node_id: NodeId, report: NodeReport) -> tuple[list[AttemptOrder], list[Lease]]:
        """What a node really holds, against what the table says it holds.

        Returns:
            Orders to send it again, because they never arrived; and leases it holds that are over, to be stopped.
        """
        if not self.ledger.is_admitted(node_id, report.incarnation):
            return [], []
        self.started(report.started)
        held = set(report.held)
        leases = self.ledger.holder_leases(node_id)
        lost = [task for task_id, task in leases.items() if (task_id, task.token) not in held]
        again = [task.attempt_order() for task in lost if task.spec.task_id not in self._reporting]
        applied = self.ledger.applied_index
        over = [lease for lease in report.held if lease[1] <= applied and not self._holds(node_id, lease)]
        if not over:
            self._reported[node_id] = report.incarnation
            self.refresh()
        return again, over

    def _holds(self, node_id: NodeId, lease: Lease) -> bool:
        task = self.ledger.holder_leases(node_id).get(lease[0])
        return task is not None and task.token == lease[1]

    # --- the next entry ---

    def next_commands(self, at_ms: int) -> list[Command]:
        """Commands for one entry at time `at_ms` (epoch): what was gathered, and grants for free slots. Empty if
        none.
        """
        commands: list[Command] = []
        bytes_left = self._config.dispatch.entry_bytes_max
        gathered = self._commands
        while gathered and len(commands) < COMMANDS_PER_ENTRY_MAX and bytes_left > 0:
            command = gathered.popleft()
            bytes_left -= _size(command)
            commands.append(command)
        self._grant_queued(commands, at_ms)
        if self._specs:
            self._take_specs(commands, bytes_left, at_ms)
        return commands

    def _take_specs(self, commands: list[Command], bytes_left: int, at_ms: int) -> None:
        """Submit, and grant in the same entry what finds a free slot and nobody waiting before it."""
        specs = self._specs
        taken: list[TaskSpec] = []
        while specs and len(taken) < COMMANDS_PER_ENTRY_MAX and bytes_left > 0:
            spec = specs.popleft()
            bytes_left -= len(spec.payload) + len(spec.checkpoint) + 64
            taken.append(spec)
            commands.append(SubmitTask(spec))
        queue, ledger = self.ledger.queue, self.ledger
        shut = dict.fromkeys(self._unplaced.values(), True)
        for spec in sorted(taken, key=_priority):
            capability = spec.capability
            if capability not in shut:
                shut[capability] = queue.first(capability) is not None
            if spec.not_before_ms > at_ms:
                continue
            if shut[capability]:
                self._unplaced[spec.task_id] = capability
                continue
            if spec.task_id in self._granting or spec.task_id in ledger.tasks or spec.task_id in ledger.finished:
                continue
            candidate = self._placement.choose(self._eligible(capability))
            if candidate is None:
                shut[capability] = True
                self._unplaced[spec.task_id] = capability
                continue
            self._grant(commands, spec.task_id, candidate)

    def _grant_queued(self, commands: list[Command], at_ms: int) -> None:
        queue = self.ledger.queue
        queue.release_due(at_ms)
        heads: dict[str, Task] = {}
        for capability in self.wanted():
            first = queue.first(capability)
            if first is not None and self._eligible(capability):
                heads[capability] = first
        granted = 0
        while heads and granted < COMMANDS_PER_ENTRY_MAX:
            capability = min(heads, key=lambda name: (heads[name].spec.priority, heads[name].order))
            candidate = self._placement.choose(self._eligible(capability))
            if candidate is None:
                del heads[capability]
                continue
            task = queue.take(capability)
            self._grant(commands, task.spec.task_id, candidate)
            granted += 1
            following = queue.first(capability)
            if following is None:
                del heads[capability]
            else:
                heads[capability] = following

    def wanted(self) -> list[str]:
        """Capabilities that some task waits for and some node offers. Clients name as many as they like."""
        ready, offered = self.ledger.queue.capabilities(), self._offered
        if len(ready) <= len(offered):
            return [capability for capability in ready if capability in offered]
        return [capability for capability in offered if capability in ready]

    def _grant(self, commands: list[Command], task_id: TaskId, candidate: Candidate) -> None:
        candidate.load += 1
        assert candidate.load <= candidate.slots, "a node is never granted more than its slots"
        self._granting[task_id] = candidate.node_id
        commands.append(GrantLease(task_id, candidate.node_id))

    def _eligible(self, capability: str) -> list[Candidate]:
        """Nodes that may be granted tasks of a capability, full ones included."""
        eligible = self._by_capability.get(capability)
        if eligible is None:
            eligible = [
                candidate
                for candidate in self.candidates.values()
                if candidate.is_eligible and capability in candidate.capabilities
            ]
            self._by_capability[capability] = eligible
        return eligible

    def proposal_refused(self, commands: Sequence[Command]) -> None:
        """Raft would not take the entry just now: gather its commands again, in front; take its grants back."""
        specs: list[TaskSpec] = []
        others: list[Command] = []
        for command in commands:
            if type(command) is GrantLease:
                holder = self._granting.pop(command.task_id)
                self.candidates[holder].load -= 1
                self._put_back(command.task_id)
            elif type(command) is SubmitTask:
                specs.append(command.spec)
                self._unplaced.pop(command.spec.task_id, None)
            else:
                others.append(command)
        self._commands.extendleft(reversed(others))
        self._specs.extendleft(reversed(specs))

    # --- what came of it ---

    def applied(self, applied: Applied, commands: Sequence[Command]) -> dict[NodeId, list[AttemptOrder]]:
        """An entry of this office has been applied. Returns the orders to send, by holder."""
        candidates = self.candidates
        if self._unplaced:
            for command in commands:
                if type(command) is SubmitTask:
                    self._unplaced.pop(command.spec.task_id, None)
        for lease in applied.ended:
            reporting = self._reporting.get(lease.task_id)
            if reporting is not None and reporting.token == lease.token:
                del self._reporting[lease.task_id]  # Its slot was counted as free when the report came in.
            elif lease.node_id in candidates:
                candidates[lease.node_id].load -= 1
        for position, command in enumerate(commands):
            kind = type(command)
            if kind is GrantLease:
                self._granted(command, applied.outcomes[position])  # type: ignore[arg-type]
            elif kind is CompleteTask or kind is FailAttempt:
                self._answered(command, applied.outcomes[position])  # type: ignore[arg-type]
        if applied.nodes_changed:
            self.refresh()
        orders: dict[NodeId, list[AttemptOrder]] = {}
        for task in applied.granted:
            if task.state == DISPATCHED and int(task.token) == applied.index:
                orders.setdefault(task.node_id, []).append(task.attempt_order())
        return orders

    def _granted(self, command: GrantLease, outcome: int) -> None:
        holder = self._granting.pop(command.task_id, None)
        if outcome == DONE or holder is None:
            return
        self.candidates[holder].load -= 1
        self._put_back(command.task_id)

    def _answered(self, command: CompleteTask | FailAttempt, outcome: int) -> None:
        reporting = self._reporting.get(command.task_id)
        if reporting is None or reporting.token != command.token:
            return
        del self._reporting[command.task_id]
        assert outcome == DONE, "the lease was in force when it was reported, and has not ended since"


def _priority(spec: TaskSpec) -> int:
    return spec.priority


def _size(command: Command) -> int:
    """About how many bytes a command takes in an entry."""
    if type(command) is CompleteTask:
        return len(command.result) + 64
    if type(command) is SaveCheckpoint:
        return len(command.state) + 64
    if type(command) is FailAttempt:
        return len(command.error) + len(command.detail) + 64
    return 64
