"""The child processes of one node, simulated: they run attempts for a while and say how it went.

What an attempt does is written in its payload (a `Script`), so a client knows what must come of its task. Every start
of user code is entered in the side-effect ledger: this is what must never happen twice under one token.
"""

from collections.abc import Callable

import msgspec

from mesh.effects import CheckpointKept, StartAttempts, StopAttempts
from mesh.events import AgentsReady, AttemptsEnded, AttemptsStarted, CheckpointOffered, Event
from mesh.ids import FencingToken, TaskId
from mesh.messages import AttemptOrder, AttemptOutcome, Failure, Lease
from mesh.sim.coverage import Coverage
from mesh.sim.plan import Plan
from mesh.sim.schedule import Schedule, dice
from mesh.sim.violation import Violation
from mesh.wire.codec import encode

CHECKPOINTS_MAX = 4
STARTUP_US = (1_000, 80_000)


class Script(msgspec.Struct, frozen=True, array_like=True):
    """What a handler will do: fail this many attempts, run about so long, save so many checkpoints; and in so many
    attempts end its process.
    """

    name: str
    failures: int = 0
    is_final: bool = False
    run_us: int = 0
    checkpoints: int = 0
    crashes: int = 0


class Made(msgspec.Struct, frozen=True, array_like=True):
    """What a handler returns: enough to know which attempt of which task it was."""

    task_id: TaskId
    token: FencingToken


class Execution(msgspec.Struct, frozen=True):
    """One line of the side-effect ledger: user code ran."""

    at_us: int
    node_id: str
    task_id: TaskId
    token: FencingToken


class SideEffects:
    """What user code did to the world, over all nodes. It outlives every crash."""

    def __init__(self) -> None:
        self.executions: list[Execution] = []
        self._seen: dict[Lease, str] = {}

    def enter(self, execution: Execution) -> None:
        """User code starts. Never twice under the same token."""
        lease = (execution.task_id, execution.token)
        before = self._seen.get(lease)
        if before is not None:
            raise Violation(
                "user code starts once per token",
                f"{execution.task_id} under token {execution.token} ran on {before} and now on {execution.node_id}",
                execution.task_id,
            )
        self._seen[lease] = execution.node_id
        self.executions.append(execution)


class _Attempt(msgspec.Struct):
    order: AttemptOrder
    script: Script
    sequence: int = 0


class Agents:
    """What runs on one node's process. `tell` reports to the node; a crash of the node takes all of it along."""

    def __init__(
        self,
        plan: Plan,
        schedule: Schedule,
        coverage: Coverage,
        node_id: str,
        incarnation: int,
        side_effects: SideEffects,
        tell: Callable[[Event], None],
    ) -> None:
        number = plan.host_ids.index(node_id)
        self.slots = plan.slots[number]
        self.capabilities = plan.capabilities[number]
        self._plan = plan
        self._schedule = schedule
        self._coverage = coverage
        self._dice = dice(plan.seed, f"agents {node_id} {incarnation}")
        self._node_id = node_id
        self._side_effects = side_effects
        self._tell = tell
        self._is_open = True
        self.running: dict[TaskId, _Attempt] = {}
        schedule.after(self._dice.randint(*STARTUP_US), self._ready)

    def _ready(self) -> None:
        if self._is_open:
            self._tell(AgentsReady(self.capabilities))

    # --- what the node asks -------------------------------------------------------------------------------------------

    def start(self, effect: StartAttempts) -> None:
        for order in effect.orders:
            if order.capability not in self.capabilities:
                raise Violation(
                    "a task runs where its capability is", f"{self._node_id} runs {order.capability}", order.task_id
                )
            if order.task_id in self.running:
                raise Violation(
                    "24 every bound holds", f"{self._node_id} runs two attempts of {order.task_id}", order.task_id
                )
            script = msgspec.msgpack.decode(order.payload, type=Script)
            self.running[order.task_id] = attempt = _Attempt(order, script)
            if len(self.running) > self.slots:
                raise Violation(
                    "24 every bound holds",
                    f"{self._node_id} runs {len(self.running)} attempts with {self.slots} slots",
                    order.task_id,
                )
            self._schedule.after(self._dice.randint(20, self._plan.begin_us), self._begin, attempt)

    def stop(self, effect: StopAttempts) -> None:
        for task_id, token in effect.leases:
            attempt = self.running.get(task_id)
            if attempt is not None and attempt.order.token == token:
                del self.running[task_id]
                if self._dice.random() < 0.3:
                    late_us = self._dice.randint(0, 50_000)
                    outcome = AttemptOutcome(task_id, token, b"", "cancelled: told to stop")
                    self._schedule.after(late_us, self._say_anyway, outcome)

    def kept(self, effect: CheckpointKept) -> None:
        attempt = self.running.get(effect.task_id)
        if attempt is None or attempt.order.token != effect.token or attempt.sequence != effect.sequence:
            return
        if effect.kept:
            self._schedule.after(self._pause_us(attempt.script), self._go_on, attempt)

    def die(self) -> None:
        """The child processes are killed: what ran in them has failed. New ones are up soon."""
        disturbed = self._dice.random() < 0.3
        self._processes_end(list(self.running.values()), Failure.DISTURBED if disturbed else Failure.CRASH)
        self._schedule.after(self._dice.randint(*STARTUP_US), self._ready)

    def _processes_end(self, victims: list[_Attempt], failure: Failure) -> None:
        """They died of themselves, or were ended for another's sake, who is none of these."""
        outcomes = []
        for attempt in victims:
            del self.running[attempt.order.task_id]
            error = "AgentDied: exit code -11"
            outcomes.append(AttemptOutcome(attempt.order.task_id, attempt.order.token, b"", error, failure=failure))
        if outcomes:
            self._coverage.add("attempt disturbed" if failure == Failure.DISTURBED else "attempt died", len(outcomes))
            self._tell(AttemptsEnded(outcomes))

    def _take_along(self, attempt: _Attempt) -> None:
        """User code has ended its process. Whatever else runs there ends with it, unless the attempt was alone."""
        others = [other for other in self.running.values() if not other.order.is_alone]
        self._processes_end([attempt] if attempt.order.is_alone else others, Failure.CRASH)

    def crash(self) -> None:
        """The node's process is gone and its children with it."""
        self._is_open = False
        self.running = {}

    # --- what user code does ------------------------------------------------------------------------------------------

    def _is_live(self, attempt: _Attempt) -> bool:
        return self._is_open and self.running.get(attempt.order.task_id) is attempt

    def _pause_us(self, script: Script) -> int:
        return int(self._dice.expovariate(1.0) * script.run_us / (script.checkpoints + 1))

    def _begin(self, attempt: _Attempt) -> None:
        if not self._is_live(attempt):
            return
        order = attempt.order
        execution = Execution(self._schedule.now_us, self._node_id, order.task_id, order.token)
        self._side_effects.enter(execution)
        self._tell(AttemptsStarted([(order.task_id, order.token)]))
        self._schedule.after(self._pause_us(attempt.script), self._go_on, attempt)

    def _go_on(self, attempt: _Attempt) -> None:
        if not self._is_live(attempt):
            return
        order, script = attempt.order, attempt.script
        if attempt.sequence < script.checkpoints:
            attempt.sequence += 1
            state = encode([order.token, attempt.sequence])
            self._tell(CheckpointOffered(order.task_id, order.token, attempt.sequence, state))
            return
        if script.crashes >= order.attempt:
            self._take_along(attempt)
            return
        del self.running[order.task_id]
        self._tell(AttemptsEnded([self._outcome(order, script)]))

    def _outcome(self, order: AttemptOrder, script: Script) -> AttemptOutcome:
        if script.failures >= order.attempt:
            error = f"ValueError: {script.name} fails attempt {order.attempt}"
            return AttemptOutcome(order.task_id, order.token, b"", error, "Traceback: ...", script.is_final)
        return AttemptOutcome(order.task_id, order.token, encode(Made(order.task_id, order.token)))

    def _say_anyway(self, outcome: AttemptOutcome) -> None:
        if self._is_open:
            self._tell(AttemptsEnded([outcome]))
