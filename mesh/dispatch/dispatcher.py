"""The leader's desk: commands gathered for the next entry, and tasks matched with free slots.

Volatile, and only while in office. A batch is made at the end of a turn, when few enough entries are on their way:
what arrives meanwhile shares the next one. Slots are counted as `leases in the table + grants proposed - reports
proposed`, so that a slot is filled again in the very entry that frees it, and never twice.
"""

from collections import deque
from collections.abc import Sequence
from random import Random

from mesh.config import COMMANDS_PER_ENTRY_MAX, NodeConfig
from mesh.dispatch.candidates import SAMPLE_EVERY, Candidates
from mesh.dispatch.deadlines import Deadlines
from mesh.dispatch.in_flight import InFlight, Reporting
from mesh.dispatch.placement import Candidate, Placement, explain
from mesh.dispatch.sizes import size_of
from mesh.dispatch.turns import Turns
from mesh.documents import NodeVerdict
from mesh.gossip.detector import Detector
from mesh.ids import FencingToken, NodeId, TaskId
from mesh.ledger import breakers, limits
from mesh.ledger.applied import DONE, Applied
from mesh.ledger.commands import (
    Command,
    CompleteTask,
    FailAttempt,
    FallBack,
    GrantLease,
    ReleaseLease,
    SaveCheckpoint,
    StartTask,
    SubmitTask,
    TimeOut,
)
from mesh.ledger.ledger import Ledger
from mesh.ledger.queue import Demand, Lane, demand, lane_key
from mesh.ledger.task import DISPATCHED, RUNNING, SCHEDULED, Task
from mesh.messages import AttemptOrder, AttemptOutcome, CheckpointReport, Failure, Lease, NodeReport, TaskSpec
from mesh.options import Options


class Dispatcher:
    """One term of office at a time."""

    def __init__(self, config: NodeConfig, ledger: Ledger, detector: Detector, rng: Random) -> None:
        self._config = config
        self.ledger = ledger
        self._rng = rng
        self._placement = Placement(rng)
        self._commands: deque[Command] = deque()
        self._specs: deque[TaskSpec] = deque()
        self._renewals: dict[TaskId, FencingToken] = {}
        """Submits gathered whose id was another task's: the token under which that ended."""
        self._reported: dict[NodeId, int] = {}
        self._flight = InFlight()
        self._turns = Turns()
        self._nodes = Candidates(ledger, detector, self._flight)
        self.deadlines = Deadlines(ledger)
        self._granted_count = 0
        self._at_ms = 0
        self.wake_ms: int | None = None
        """When (epoch) the first of what holds tasks back lets one go: a rate, a pause, a breaker."""
        self.in_office = False

    @property
    def candidates(self) -> dict[NodeId, Candidate]:
        return self._nodes.all

    # --- office ---

    def take_office(self) -> None:
        """Begin with what the table says; grant to a node once it has reported what it runs."""
        assert not self.in_office, "office is taken once a term"
        self.in_office = True
        self._turns = Turns()
        self.deadlines.take_office()
        self.refresh()

    def leave_office(self) -> None:
        """Forget everything proposed: the next leader, who may be this node, derives it anew."""
        self.in_office = False
        self._commands.clear()
        self._specs.clear()
        self._renewals.clear()
        for task_id in self._flight.clear():
            self._put_back(task_id)
        self._reported.clear()
        self._nodes.clear()
        self.deadlines.leave_office()

    def refresh(self) -> None:
        """Nodes, their health, slots or capabilities changed: look at all of them again."""
        if not self.in_office:
            return
        for node_id in list(self._reported):
            record = self.ledger.nodes.get(node_id)
            if record is None or not record.active:
                del self._reported[node_id]  # Given up: it may run on, so it is asked again before it gets more.
        self._nodes.refresh(self._reported, self._count_load)

    def unreported(self) -> list[NodeId]:
        """Nodes that are admitted and have not told this leader what they run."""
        return [
            candidate.node_id for candidate in self.candidates.values() if candidate.admitted and not candidate.reported
        ]

    def _count_load(self, node_id: NodeId) -> int:
        load = len(self.ledger.holder_leases(node_id))
        load += sum(1 for holder in self._flight.granting.values() if holder == node_id)
        return load - sum(1 for reporting in self._flight.reporting.values() if reporting.node_id == node_id)

    def _put_back(self, task_id: TaskId) -> None:
        """A task taken from the queue was not granted after all, or waits on."""
        task = self.ledger.tasks.get(task_id)
        if task is not None and task.state <= SCHEDULED and task_id not in self._flight.falling:
            self.ledger.queue.push(task)

    # --- what is gathered ---

    @property
    def gathered(self) -> int:
        """Commands and submits waiting for the next entry."""
        return len(self._commands) + len(self._specs)

    def submit(self, spec: TaskSpec, renews: FencingToken = FencingToken(0)) -> None:
        """Take a task. `renews`: the token under which another of its id ended, whose window is over."""
        self._specs.append(spec)
        if renews:
            self._renewals[spec.task_id] = renews

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
            reporting = self._flight.reporting.get(task_id)
            if reporting is not None and reporting.token >= token:
                continue
            task = self.ledger.tasks.get(task_id)
            if task is not None and task.token == token and task.state in (DISPATCHED, RUNNING) and reporting is None:
                holder = task.node_id
                self._flight.reporting[task_id] = Reporting(token, holder)
                candidate = self.candidates.get(holder)
                if candidate is not None:
                    candidate.load -= 1
                if outcome.error or self._nodes.is_measuring:
                    has_failed = bool(outcome.error) and outcome.failure != Failure.DISTURBED
                    self._nodes.reported(task_id, holder, self._at_ms, has_failed=has_failed)
            if outcome.error:
                self._commands.append(self._judged(outcome))
            else:
                self._commands.append(CompleteTask(task_id, token, outcome.result))

    def _judged(self, outcome: AttemptOutcome) -> Command:
        """What becomes of an attempt that failed."""
        if outcome.failure == Failure.DISTURBED:
            return ReleaseLease(outcome.task_id, outcome.token, outcome.error)
        jitter = self._rng.randrange(101)
        level_failure = outcome.failure if self.ledger.level else Failure.HANDLER
        return FailAttempt(
            outcome.task_id, outcome.token, outcome.error, outcome.detail, jitter, outcome.final, level_failure
        )

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
        alone_after = self.ledger.settings.alone_after_crashes
        reporting = self._flight.reporting
        again = [task.attempt_order(alone_after) for task in lost if task.spec.task_id not in reporting]
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
        self._at_ms = at_ms
        commands: list[Command] = []
        bytes_left = self._config.dispatch.entry_bytes_max
        gathered = self._commands
        if self.deadlines.is_due(at_ms):
            for time_out in self.deadlines.due(at_ms, self._rng):
                if not time_out.token:
                    self._keep_out(time_out.task_id)
                gathered.append(time_out)
        while gathered and len(commands) < COMMANDS_PER_ENTRY_MAX and bytes_left > 0:
            command = gathered.popleft()
            bytes_left -= size_of(command)
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
            renews = self._renewals.pop(spec.task_id, None) if self._renewals else None
            commands.append(SubmitTask(spec) if renews is None else SubmitTask(spec, renews))
        queue, ledger, flight = self.ledger.queue, self.ledger, self._flight
        shut = dict.fromkeys(flight.unplaced.values(), True)
        for spec in sorted(taken, key=_priority):
            capability = spec.capability
            if capability not in shut:
                is_paused = bool(ledger.pauses) and limits.is_paused(ledger, capability, at_ms)
                shut[capability] = is_paused or queue.lane(capability) is not None
            if spec.not_before_ms > at_ms:
                continue
            options = spec.options
            if shut[capability] or (options is not None and lane_key(spec) is not capability):
                shut[capability] = True
                flight.unplaced[spec.task_id] = capability
                continue
            if spec.task_id in flight.granting or spec.task_id in ledger.tasks or spec.task_id in ledger.finished:
                continue
            candidate = self._choose(capability, capability, options, at_ms)
            if candidate is None:
                shut[capability] = True
                flight.unplaced[spec.task_id] = capability
                continue
            self._grant(commands, spec, candidate)

    def _grant_queued(self, commands: list[Command], at_ms: int) -> None:
        queue = self.ledger.queue
        queue.release_due(at_ms)
        self.wake_ms = None
        if not queue.lanes or not any(candidate.load < candidate.slots for candidate in self.candidates.values()):
            return
        granted = 0
        line = self._turns.line(
            queue, self._nodes.offered, at_ms, self.ledger.settings, lambda lane: self._is_open(lane, commands, at_ms)
        )
        for lane, task in line:
            spec = task.spec
            candidate = self._choose(_wanted(lane), spec.capability, spec.options, at_ms)
            if candidate is None:
                line.leave_out(lane)
                continue
            queue.take(task)
            self._grant(commands, spec, candidate)
            line.granted(lane)
            granted += 1
            if granted == COMMANDS_PER_ENTRY_MAX:
                return

    def _is_open(self, lane: Lane, commands: list[Command], at_ms: int) -> bool:
        """Whether a task of this lane may be granted to anybody now."""
        ledger, flight = self.ledger, self._flight
        capability = lane.demand.capability
        if ledger.pauses and limits.is_paused(ledger, capability, at_ms):
            self._wake_at(ledger.pauses[capability].until_ms)
            return False
        nodes = self._nodes.meeting(_wanted(lane))
        if not nodes:
            return False
        if ledger.breakers and all(self._is_shut(node.node_id, capability, at_ms) for node in nodes):
            self._fall_back(lane, commands, at_ms)
            return False
        concurrency = lane.concurrency
        more = 0 if concurrency is None else flight.under("concurrency", concurrency.key)
        if concurrency is not None and limits.is_full(ledger, concurrency, more):
            return False
        for rate in lane.rates:
            free_ms = limits.rate_free_at_ms(ledger, rate, at_ms, flight.under("rate", rate.key))
            if free_ms > at_ms:
                self._wake_at(free_ms)
                return False
        return True

    def _wake_at(self, due_ms: int) -> None:
        """Look again then; 0 is never."""
        if due_ms and (self.wake_ms is None or due_ms < self.wake_ms):
            self.wake_ms = due_ms

    def _is_shut(self, node_id: NodeId, capability: str, at_ms: int) -> bool:
        """Whether a node's breaker for a capability keeps it from being granted one now."""
        if (node_id, capability) in self._flight.probing:
            return True
        if not breakers.is_shut(self.ledger, node_id, capability, at_ms):
            return False
        opened_ms = self.ledger.breakers[node_id, capability].opened_at_ms
        until_ms = opened_ms + self.ledger.settings.breaker_open_ms
        if until_ms > at_ms:
            self._wake_at(until_ms)
        return True

    def _fall_back(self, lane: Lane, commands: list[Command], at_ms: int) -> None:
        """Nobody can be trusted with this capability: the first of the lane goes to its fallback, if it has one."""
        settings = self.ledger.settings
        task = lane.first(at_ms, settings.ageing_ms, settings.ageing_steps_max)[2]
        options = task.spec.options
        falling = self._flight.falling
        if options is None or options.fallback in ("", task.spec.capability) or task.spec.task_id in falling:
            return
        if len(falling) >= COMMANDS_PER_ENTRY_MAX:
            return
        self._keep_out(task.spec.task_id)
        commands.append(FallBack(task.spec.task_id))

    def _keep_out(self, task_id: TaskId) -> None:
        self._flight.falls(task_id)
        self.ledger.queue.remove(self.ledger.tasks[task_id])

    def _choose(self, wanted: str | Demand, capability: str, options: Options | None, at_ms: int) -> Candidate | None:
        nodes = self._nodes.meeting(wanted)
        ledger = self.ledger
        if ledger.breakers:
            nodes = [node for node in nodes if not self._is_shut(node.node_id, capability, at_ms)]
        holder = None if options is None else self._nodes.holder(options.sticky)
        return self._placement.choose(nodes, ledger.settings.strategy, capability, options, holder)

    def _grant(self, commands: list[Command], spec: TaskSpec, candidate: Candidate) -> None:
        candidate.load += 1
        assert candidate.load <= candidate.slots, "a node is never granted more than its slots"
        node_id, task_id, capability = candidate.node_id, spec.task_id, spec.capability
        self._flight.granting[task_id] = node_id
        if spec.options is not None:
            self._flight.count(task_id, spec.options, node_id)
        if self.ledger.breakers:
            breaker = self.ledger.breakers.get((node_id, capability))
            if breaker is not None and breaker.opened_at_ms:
                self._flight.probe(task_id, node_id, capability)
        self._granted_count += 1
        if self._granted_count % SAMPLE_EVERY == 0:
            self._nodes.time(task_id, node_id, capability, self._at_ms)
        commands.append(GrantLease(task_id, node_id))

    def proposal_refused(self, commands: Sequence[Command]) -> None:
        """Raft would not take the entry just now: gather its commands again, in front; take its grants back."""
        specs: list[TaskSpec] = []
        others: list[Command] = []
        for command in commands:
            if type(command) is GrantLease:
                holder = self._flight.settle(command.task_id)
                assert holder is not None, "it was proposed"
                self.candidates[holder].load -= 1
                self._put_back(command.task_id)
            elif type(command) is SubmitTask:
                specs.append(command.spec)
                if command.renews:
                    self._renewals[command.spec.task_id] = command.renews
                self._flight.unplaced.pop(command.spec.task_id, None)
            else:
                others.append(command)
        self._commands.extendleft(reversed(others))
        self._specs.extendleft(reversed(specs))

    # --- what came of it ---

    def applied(self, applied: Applied, commands: Sequence[Command]) -> dict[NodeId, list[AttemptOrder]]:
        """An entry of this office has been applied. Returns the orders to send, by holder."""
        candidates, flight = self.candidates, self._flight
        for lease in applied.ended:
            reporting = flight.reporting.get(lease.task_id)
            if reporting is not None and reporting.token == lease.token:
                del flight.reporting[lease.task_id]  # Its slot was counted as free when the report came in.
            elif lease.node_id in candidates:
                candidates[lease.node_id].load -= 1
        for position, command in enumerate(commands):
            kind = type(command)
            if kind is GrantLease:
                self._granted(command, applied.outcomes[position])  # type: ignore[arg-type]  # `kind` is its type.
            elif kind is CompleteTask or kind is FailAttempt:
                self._answered(command, applied.outcomes[position])  # type: ignore[arg-type]  # As above.
            elif kind is SubmitTask:
                spec: TaskSpec = command.spec  # type: ignore[union-attr, assignment]  # As above.
                if flight.unplaced:
                    flight.unplaced.pop(spec.task_id, None)
            elif kind is FallBack or (kind is TimeOut and not command.token):  # type: ignore[union-attr]  # As above.
                flight.fell(command.task_id)  # type: ignore[union-attr]  # As above.
                self._put_back(command.task_id)  # type: ignore[union-attr]  # As above.
        if applied.nodes_changed:
            self.refresh()
        for task in applied.awaited:
            self.deadlines.awaited(task)
        alone_after = self.ledger.settings.alone_after_crashes
        orders: dict[NodeId, list[AttemptOrder]] = {}
        for task in applied.granted:
            if task.state == DISPATCHED and int(task.token) == applied.index:
                orders.setdefault(task.node_id, []).append(task.attempt_order(alone_after))
                if task.spec.options is not None:
                    self.deadlines.granted(task)
        return orders

    def _granted(self, command: GrantLease, outcome: int) -> None:
        holder = self._flight.settle(command.task_id)
        if outcome == DONE or holder is None:
            return
        candidate = self.candidates.get(holder)
        if candidate is not None:  # It may have been removed from the mesh meanwhile.
            candidate.load -= 1
        self._put_back(command.task_id)

    def _answered(self, command: CompleteTask | FailAttempt, outcome: int) -> None:
        reporting = self._flight.reporting.get(command.task_id)
        if reporting is None or reporting.token != command.token:
            return
        del self._flight.reporting[command.task_id]
        assert outcome == DONE, "the lease was in force when it was reported, and has not ended since"

    # --- what people ask ---

    def explanation(self, task: Task, at_ms: int) -> tuple[list[NodeVerdict], list[str]]:
        """What each node lacks for a task, and what else keeps it back, in words."""
        ledger = self.ledger
        spec = task.spec
        wanted = Demand(spec.capability) if spec.options is None else demand(spec.capability, spec.options)
        shut = {
            node_id: f"its breaker for {spec.capability!r} is {self._breaker_word(node_id, spec.capability, at_ms)}"
            for node_id in self.candidates
            if ledger.breakers and self._is_shut(node_id, spec.capability, at_ms)
        }
        verdicts = explain(
            list(self.candidates.values()),
            wanted,
            ledger.settings.health_permille_min,
            self._nodes.holder(wanted.sticky),
            shut,
        )
        return verdicts, limits.words(ledger, spec, at_ms)

    def _breaker_word(self, node_id: NodeId, capability: str, at_ms: int) -> str:
        breaker = self.ledger.breakers.get((node_id, capability))
        if breaker is None:
            return "half_open"  # It has been closed by hand, and the probe for it is on its way yet.
        return breakers.word(breaker, at_ms, self.ledger.settings.breaker_open_ms)


def _wanted(lane: Lane) -> str | Demand:
    return lane.key if type(lane.key) is str else lane.demand


def _priority(spec: TaskSpec) -> int:
    return spec.priority
