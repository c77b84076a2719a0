"""What the ledger ought to do, said a second time and more simply, for the checker to compare with.

The model applies every committed entry once, when the first node does. It keeps per task only what the promises are
about: state, token, attempts, checkpoint. It shares no code with mesh/ledger but the names of states and outcomes.
"""

from collections.abc import Callable
from typing import Any, Final

import msgspec

from mesh.ids import NodeId, TaskId
from mesh.ledger import commands
from mesh.ledger.applied import ALREADY, CONFLICT, DONE, FENCED, REFUSED, UNKNOWN
from mesh.ledger.task import (
    CANCELLED,
    COMPLETED,
    DEAD,
    DISPATCHED,
    FAILED,
    PAUSED,
    PENDING,
    RUNNING,
    SCHEDULED,
    STATE_NAMES,
)
from mesh.messages import Failure, TaskSpec
from mesh.options import Options, Retry, WhenFull
from mesh.sim import model_crons, model_nodes, model_rulings
from mesh.sim.coverage import Coverage
from mesh.sim.linearizable import Call
from mesh.sim.model_limits import BREAKER, ModelLimits
from mesh.sim.model_nodes import ModelNode

WAITING: Final = (PENDING, SCHEDULED)
LEASED: Final = (DISPATCHED, RUNNING)
TOKENS: Final = 1 << 32
"""A task that was never granted ended under no token; in a renewal this stands for it, as 0 says that there is none."""
OVER: Final = (COMPLETED, FAILED, CANCELLED)


class ModelTask(msgspec.Struct):
    """One task. `token_max` is the greatest token it ever had; `ends` every (state, token) it ended in. `place` is
    where in the log it came in, or was put back.
    """

    capability: str
    payload: bytes
    attempts_max: int
    state: int
    not_before_ms: int
    attempts: int = 0
    token: int = 0
    token_max: int = 0
    node_id: str = ""
    sequence: int = 0
    reason: str = ""
    is_lost: bool = False
    ends: list[tuple[int, int]] = []
    options: Options | None = None
    submitted_ms: int = 0
    asked: tuple[str, bytes] = ("", b"")
    """Capability and payload as they were submitted."""
    crashes: int = 0
    granted_ms: int = 0
    progress_ms: int = 0
    priority: int = 5
    awaited_ms: int = 0
    """When it was redriven or fell back."""
    has_begun: bool = False
    """Since then; nothing was charged for it in the end."""
    has_failed: bool = False
    """Some attempt, ever."""
    task_id: TaskId = TaskId("")
    place: tuple[int, int] = (0, 0)
    ended_ms: int = 0


class Model:
    """The table after `index`. `touched` are the tasks the last entry spoke of."""

    def __init__(self, coverage: Coverage) -> None:
        self.index = 0
        self.at_ms = 0
        self.entries = 0
        """How many had commands."""
        self.tasks: dict[TaskId, ModelTask] = {}
        self.nodes: dict[NodeId, ModelNode] = {}
        self.counts = [0] * len(STATE_NAMES)
        """Tasks by state."""
        self.leases: dict[str, int] = {}
        """Leases in force, by node."""
        self.touched: dict[TaskId, ModelTask] = {}
        self.granted: dict[int, dict[TaskId, NodeId]] = {}
        """By log index: the leases granted there."""
        self.refused: dict[TaskId, None] = {}
        """Tasks of which the last entry held a grant that came to nothing: they have lost their turn."""
        self.limits = ModelLimits()
        self.crons: dict[str, model_crons.ModelCron] = {}
        self.fired: dict[TaskId, None] = {}
        """Tasks that a schedule submitted."""
        self.renewed = 0
        """Tasks whose id was taken again when their window was over."""
        self.done: list[tuple[Call, TaskId, bool]] = []
        """What was done to tasks in the last entry, in order; and whether somebody ordered it, for one or for many."""
        self.held_back: dict[TaskId, str] = {}
        """Grants of the last entry that a limit forbids, and which."""
        self.forgotten: list[ModelTask] = []
        """Tasks whose id the last entry gave to others."""
        self._ended_now: list[TaskId] = []
        self.completions: dict[TaskId, int] = {}
        """Token under which a task was completed."""
        self.first_due_ms: dict[TaskId, int] = {}
        """When a task was submitted for."""
        self.set_to: dict[str, int] = {}
        self.pause_words: dict[str, tuple[int, str]] = {}
        self.moved: dict[TaskId, None] = {}
        """Tasks that the last entry gave another priority: they stand in another line."""
        self._position = 0
        self.coverage = coverage

    def apply(self, index: int, batch: commands.Batch | None) -> bytes:
        """Apply the next entry (None: one without commands). Returns the outcome of each command."""
        assert index == self.index + 1, f"the model is at {self.index} and was given {index}"
        self.index = index
        self.touched, self.refused, self.moved, self.held_back = {}, {}, {}, {}
        self.done, self.forgotten, self._ended_now = [], [], []
        if batch is None:
            return b""
        self.entries += 1
        self.at_ms = max(self.at_ms, batch.at_ms)
        outcomes = bytearray()
        for self._position, command in enumerate(batch.commands):
            outcomes.append(_RULES[type(command)](self, command))
        for task_id in self._ended_now:  # It grows meanwhile.
            self._position += 1
            model_crons.last_ended(self, task_id)
        return bytes(outcomes)

    # --- rules --------------------------------------------------------------------------------------------------------

    def submit(self, command: commands.SubmitTask) -> int:
        spec = command.spec
        known = self.tasks.get(spec.task_id)
        is_over = known is not None and known.state in OVER and known.token == command.renews % TOKENS
        is_new = known is None or (is_over and bool(command.renews))
        if known is not None and not is_new:
            same = known.asked == (spec.capability, spec.payload)
            self.coverage.add("same task submitted again" if same else "conflict in the log")
            return ALREADY if same else CONFLICT
        concurrency = None if spec.options is None else spec.options.concurrency
        crowd = [] if concurrency is None else self._live_under(concurrency.key)
        is_full = concurrency is not None and len(crowd) >= concurrency.limit
        if concurrency is not None and is_full and concurrency.when_full == WhenFull.REJECT:
            self.coverage.add("submit turned down")
            return REFUSED
        if known is not None:
            self._forget(known)
        self.coverage.add("task accepted")
        self.create(spec, [] if known is None else known.ends)
        if concurrency is not None and is_full and concurrency.when_full != WhenFull.QUEUE:
            goes = spec.task_id if concurrency.when_full == WhenFull.CANCEL_NEWEST else crowd[0]
            self.coverage.add("concurrency key made room")
            self.call_off(goes)
        return DONE

    def create(self, spec: TaskSpec, ends: list[tuple[int, int]]) -> None:
        """A task comes into being."""
        state = SCHEDULED if spec.not_before_ms > self.at_ms else PENDING
        task = ModelTask(spec.capability, spec.payload, spec.max_attempts, state, spec.not_before_ms)
        task.options, task.submitted_ms, task.asked = spec.options, self.at_ms, (spec.capability, spec.payload)
        task.priority, task.task_id, task.ends = spec.priority, spec.task_id, list(ends)
        task.place = self.index, self._position
        self.first_due_ms[spec.task_id] = spec.not_before_ms
        self.tasks[spec.task_id] = self.touched[spec.task_id] = task
        self.counts[state] += 1

    def _forget(self, known: ModelTask) -> None:
        """The window of a task that has ended is over: its id is free."""
        self.coverage.add("id taken again after its window")
        self.renewed += 1
        self.forgotten.append(known)
        del self.tasks[known.task_id]
        self.completions.pop(known.task_id, None)
        self.done.append((Call.RENEW, known.task_id, False))

    def call_off(self, task_id: TaskId) -> None:
        """A task is cancelled, and nobody has ordered it."""
        self.touch(task_id)
        self.done.append((Call.CANCEL, task_id, False))
        self.end(self.tasks[task_id], CANCELLED)

    def _live_under(self, key: str) -> list[TaskId]:
        """Live tasks under a concurrency key, in the order they came in or were put back; dead letters do not count."""
        crowd = [
            task
            for task in self.tasks.values()
            if task.options is not None
            and task.options.concurrency is not None
            and task.options.concurrency.key == key
            and task.state not in OVER
            and task.state != DEAD
        ]
        return [task.task_id for task in sorted(crowd, key=_place)]

    def _grant(self, command: commands.GrantLease) -> int:
        task, node = self.live(command.task_id), self.nodes.get(command.node_id)
        if task is None or node is None:
            return UNKNOWN
        may_run = node.is_active and not node.is_draining and task.not_before_ms <= self.at_ms
        if task.state not in WAITING or not may_run or self.index <= task.token:
            self.refused[command.task_id] = None
            return REFUSED
        limit = self._limit_against(task, command.node_id)
        if limit:
            self.coverage.add("grant beyond a limit refused")
            self.refused[command.task_id] = None
            self.held_back[command.task_id] = limit
            return REFUSED
        self._move(task, DISPATCHED)
        task.granted_ms = task.progress_ms = self.at_ms
        if self.limits.granted(command.task_id, self.index, command.node_id, task.capability, task.options, self.at_ms):
            self.coverage.add("breaker probed")
        task.token = task.token_max = self.index
        task.node_id = command.node_id
        self.leases[command.node_id] = self.leases.get(command.node_id, 0) + 1
        self.granted.setdefault(self.index, {})[command.task_id] = command.node_id
        if task.is_lost:
            self.coverage.add("task reassigned")
        task.is_lost = False
        return DONE

    def _limit_against(self, task: ModelTask, node_id: NodeId) -> str:
        """The limit that forbids to grant it there now; empty if none does."""
        limits, at_ms = self.limits, self.at_ms
        forbids = limits.against(task.capability, task.options, at_ms)
        if forbids:
            return forbids
        breaker = limits.breakers.get((node_id, task.capability))
        probe = None if breaker is None or breaker.probe is None else self.tasks.get(breaker.probe[0])
        is_out = False
        if breaker is not None and breaker.probe is not None and probe is not None:
            is_out = probe.state in LEASED and probe.token == breaker.probe[1]
        return BREAKER if limits.is_shut(node_id, task.capability, at_ms, is_out) else ""

    def _start(self, command: commands.StartTask) -> int:
        task = self._leased(command.task_id, command.token)
        if task is None:
            return FENCED
        if task.state == RUNNING:
            return ALREADY
        self._move(task, RUNNING)
        task.attempts += 1
        return DONE

    def _checkpoint(self, command: commands.SaveCheckpoint) -> int:
        task = self._leased(command.task_id, command.token)
        if task is None:
            return FENCED
        if command.sequence == commands.BY_HAND:
            task.progress_ms = self.at_ms
            return DONE
        if command.sequence <= task.sequence:
            return ALREADY
        if task.state == DISPATCHED:
            self._move(task, RUNNING)
            task.attempts += 1
        task.sequence = command.sequence
        task.progress_ms = self.at_ms
        self.coverage.add("checkpoint kept")
        return DONE

    def _complete(self, command: commands.CompleteTask) -> int:
        task = self.live(command.task_id)
        if task is None or task.token != command.token or task.state == DEAD:
            return self._stale(command.task_id, command.token)
        if task.state == DISPATCHED or (task.state in WAITING and task.attempts == 0):
            task.attempts += 1
        self.coverage.add("task completed")
        if task.state in WAITING:
            self.coverage.add("late completion accepted")
        self.completions[command.task_id] = command.token
        if task.node_id and self.limits.went_well(NodeId(task.node_id), task.capability, (task.task_id, task.token)):
            self.coverage.add("breaker closed")
        self.end(task, COMPLETED)
        return DONE

    def _fail(self, command: commands.FailAttempt) -> int:
        task = self._leased(command.task_id, command.token)
        if task is None:
            return self._stale(command.task_id, command.token)
        if task.state == DISPATCHED:
            task.attempts += 1
        task.reason = command.error
        self.went_wrong(task)
        if self.limits.level and command.failure == Failure.CRASH:
            task.crashes += 1
            if task.crashes >= self.limits.crashes["dead_after_crashes"]:
                task.reason = "poison"
                self.end(task, DEAD)
                self.coverage.add("poison")
                return DONE
        self.try_again(task, command.error, command.jitter_permille, is_final=command.final)
        return DONE

    def went_wrong(self, task: ModelTask) -> None:
        """An attempt failed, by the word of its holder or because it took too long."""
        task.has_failed = True
        lease = task.task_id, task.token
        if self.limits.went_wrong(NodeId(task.node_id), task.capability, lease, self.at_ms, self.index):
            self.coverage.add("breaker opened")

    def try_again(self, task: ModelTask, error: str, jitter_permille: int, *, is_final: bool) -> None:
        retry = Retry() if task.options is None or task.options.retry is None else task.options.retry
        if is_final or error.split(":", maxsplit=1)[0] in retry.never or task.attempts >= task.attempts_max:
            self.give_up(task)
            return
        delay_ms = retry.base_ms
        for _ in range(task.attempts - 1):
            if delay_ms < retry.max_ms:
                delay_ms = delay_ms * retry.factor_permille // 1_000
        delay_ms = min(delay_ms, retry.max_ms)
        delay_ms += delay_ms * retry.jitter_permille * min(max(jitter_permille, 0), 100) // 100_000
        self.wait_again(task, SCHEDULED)
        task.not_before_ms = self.at_ms + delay_ms
        self.coverage.add("task retried")

    def give_up(self, task: ModelTask) -> None:
        fallback = "" if task.options is None else task.options.fallback
        if fallback in ("", task.capability):
            self.end(task, DEAD)
            self.coverage.add("task dead")
            return
        task.capability, task.attempts, task.crashes = fallback, 0, 0
        task.awaited_ms, task.has_begun = self.at_ms, False
        self.done.append((Call.FALL_BACK, task.task_id, False))
        self.wait_again(task, PENDING)
        self.coverage.add("task fell back")

    def _release(self, command: commands.ReleaseLease) -> int:
        task = self._leased(command.task_id, command.token)
        if task is None:
            return FENCED
        self.give_back(task)
        self.coverage.add("lease released")
        return DONE

    def give_back(self, task: ModelTask) -> None:
        if task.state == RUNNING:
            task.attempts -= 1
            task.has_begun = True
        self.wait_again(task, PENDING)

    def _cancel(self, command: commands.CancelTask) -> int:
        task = self.tasks.get(command.task_id)
        if task is None:
            return UNKNOWN
        if task.state in OVER:
            return ALREADY
        self.touch(command.task_id)
        self.done.append((Call.CANCEL, command.task_id, True))
        self.end(task, CANCELLED)
        self.coverage.add("task cancelled")
        return DONE

    def _redrive(self, command: commands.RedriveTask) -> int:
        task = self.live(command.task_id)
        if task is None:
            return UNKNOWN
        if task.state not in (DEAD, PAUSED):
            return REFUSED
        self.coverage.add("held task redriven" if task.state == PAUSED else "dead letter redriven")
        self.done.append((Call.REDRIVE, command.task_id, True))
        self.wait_again(task, PENDING)
        task.attempts = task.token = task.crashes = 0
        task.awaited_ms, task.has_begun = self.at_ms, False
        task.place = self.index, self._position
        if command.payload is not None:
            task.payload = command.payload
        self.coverage.add("task redriven")
        return DONE

    def _drop(self, command: commands.DropDeadLetter) -> int:
        task = self.live(command.task_id)
        if task is None:
            return UNKNOWN
        if task.state != DEAD:
            return REFUSED
        self.done.append((Call.DROP, command.task_id, True))
        self.end(task, FAILED)
        return DONE

    # --- parts of rules -----------------------------------------------------------------------------------------------

    def touch(self, task_id: TaskId) -> None:
        self.touched[task_id] = self.tasks[task_id]

    def live(self, task_id: TaskId) -> ModelTask | None:
        task = self.tasks.get(task_id)
        if task is None or task.state in OVER:
            return None
        self.touch(task_id)
        return task

    def _leased(self, task_id: TaskId, token: int) -> ModelTask | None:
        task = self.live(task_id)
        return task if task is not None and task.token == token and task.state in LEASED else None

    def _stale(self, task_id: TaskId, token: int) -> int:
        task = self.tasks.get(task_id)
        if task is None:
            return UNKNOWN
        if task.token == token:
            return ALREADY
        self.coverage.add("completion fenced")
        return FENCED

    def _move(self, task: ModelTask, state: int) -> None:
        if task.state in LEASED and state not in LEASED:
            self.leases[task.node_id] -= 1
            self.limits.lease_ended(task.task_id, task.options)
        self.counts[task.state] -= 1
        self.counts[state] += 1
        task.state = state

    def wait_again(self, task: ModelTask, state: int) -> None:
        self._move(task, state)
        task.node_id = ""
        task.sequence = 0
        if state == PENDING:
            task.not_before_ms = 0

    def end(self, task: ModelTask, state: int) -> None:
        self._move(task, state)
        task.ends.append((state, task.token))
        task.ended_ms = self.at_ms
        self._ended_now.append(task.task_id)


def _place(task: ModelTask) -> tuple[int, int]:
    return task.place


_RULES: dict[type, Callable[[Model, Any], int]] = {
    commands.SubmitTask: Model.submit,
    commands.GrantLease: Model._grant,
    commands.StartTask: Model._start,
    commands.SaveCheckpoint: Model._checkpoint,
    commands.CompleteTask: Model._complete,
    commands.FailAttempt: Model._fail,
    commands.ReleaseLease: Model._release,
    commands.CancelTask: Model._cancel,
    commands.RedriveTask: Model._redrive,
    commands.DropDeadLetter: Model._drop,
    commands.AdmitNode: model_nodes.admit,
    commands.FailNode: model_nodes.fail_node,
    commands.DrainNode: model_nodes.drain,
    commands.ElectLeader: model_nodes.elect,
    commands.LeaveNode: model_nodes.leave,
    commands.RaiseLevel: model_rulings.raise_level,
    commands.TimeOut: model_rulings.time_out,
    commands.Reprioritize: model_rulings.reprioritize,
    commands.SetSetting: model_rulings.change_setting,
    commands.PauseQueue: model_rulings.pause,
    commands.ResumeQueue: model_rulings.resume,
    commands.FallBack: model_rulings.fall_back,
    commands.CloseBreaker: model_rulings.close_breaker,
    commands.SetCron: model_crons.set_cron,
    commands.DropCron: model_crons.drop_cron,
    commands.FireCron: model_crons.fire_cron,
}
