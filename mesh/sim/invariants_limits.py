"""Invariants 27 to 30 and 33: limits that hold in the whole mesh, whoever leads. Each raises Violation.

What is counted here is what the ledger did, by the outcomes of its commands; the model says only what tasks asked for
and where they stand. What the model itself thinks of each grant is compared elsewhere, under the same names.
"""

from typing import Final

from mesh.ids import NodeId, TaskId
from mesh.ledger import commands
from mesh.ledger.applied import DONE
from mesh.options import Rate
from mesh.sim.model import LEASED, Model, ModelTask
from mesh.sim.model_limits import BREAKER, CONCURRENCY, RATE
from mesh.sim.violation import Violation

ONCE: Final = "30 no firing comes twice"
WINDOW: Final = "33 an id is taken again after its window only"


class Limits:
    """All grants and firings of a run."""

    def __init__(self) -> None:
        self._count = 0
        self._granted_ms: dict[str, list[int]] = {}
        """By rate key: when tasks with it were granted, by the log's time."""
        self._grants: dict[TaskId, int] = {}
        """Numbers of the latest grants."""
        self._fired: dict[tuple[str, int], int] = {}
        """By name and due time: the entry that dealt with the firing."""

    def applied(self, model: Model, batch: commands.Batch, outcomes: bytes) -> None:
        """An entry was applied first, and the model has applied it too."""
        granted: list[TaskId] = []
        for command, outcome in zip(batch.commands, outcomes, strict=True):
            if outcome != DONE:
                continue
            if isinstance(command, commands.GrantLease):
                granted.append(command.task_id)
                self._count += 1
                self._grants[command.task_id] = self._count
            elif isinstance(command, commands.FireCron):
                self._once(model, command)
        for gone in model.forgotten:
            window_is_over(model, gone)
        for task_id in granted:
            self._granted(model, task_id)

    def _granted(self, model: Model, task_id: TaskId) -> None:
        task = model.tasks[task_id]
        if task.options is not None:
            for key in dict.fromkeys(rate.key for rate in task.options.rates):
                self._granted_ms.setdefault(key, []).append(model.at_ms)
            for rate in task.options.rates:
                self._rate_holds(model, task_id, rate)
        if task.state in LEASED:  # Else it has ended in the entry that granted it.
            self._key_holds(model, task)
            one_probe_at_a_time(model, task)

    def _rate_holds(self, model: Model, task_id: TaskId, rate: Rate) -> None:
        """27: of the tasks with its key no more than its limit were granted within its time, this one included."""
        within = sum(model.at_ms - then_ms < rate.per_ms for then_ms in self._granted_ms[rate.key])
        if within > rate.limit:
            raise Violation(RATE, f"entry {model.index}: {within} granted in time under {rate}", task_id)

    def _key_holds(self, model: Model, task: ModelTask) -> None:
        """28: when it was granted, no more tasks with its concurrency key than its limit held a lease, this one
        included.
        """
        concurrency = None if task.options is None else task.options.concurrency
        if concurrency is None:
            return
        holders = [
            known.task_id
            for known in model.tasks.values()
            if known.state in LEASED
            and known.options is not None
            and known.options.concurrency is not None
            and known.options.concurrency.key == concurrency.key
            and self._grants.get(known.task_id, 0) <= self._grants[task.task_id]
        ]
        if len(holders) > concurrency.limit:
            raise Violation(CONCURRENCY, f"entry {model.index}: {holders} run under {concurrency}", task.task_id)

    def _once(self, model: Model, command: commands.FireCron) -> None:
        """30: a schedule fires once at most for one due time, and not before it."""
        firing = command.name, command.due_ms
        before = self._fired.setdefault(firing, model.index)
        if before != model.index or command.due_ms > model.at_ms:
            raise Violation(ONCE, f"entry {model.index} at {model.at_ms}: {firing}, dealt with in entry {before}")


def one_probe_at_a_time(model: Model, task: ModelTask) -> None:
    """29: since a breaker has opened, no more than one task of its capability runs there that was granted since."""
    breaker = model.limits.breakers.get((NodeId(task.node_id), task.capability))
    if breaker is None or not breaker.opened_ms:
        return
    probes = [
        known.task_id
        for known in model.tasks.values()
        if known.state in LEASED
        and (known.node_id, known.capability) == (task.node_id, task.capability)
        and known.token > breaker.opened_index
    ]
    if len(probes) > 1:
        raise Violation(BREAKER, f"entry {model.index}: {probes} try {task.node_id}", task.task_id)


def window_is_over(model: Model, gone: ModelTask) -> None:
    """33: whoever has taken the id of a task that ended has waited as long as he said he would."""
    options = model.tasks[gone.task_id].options
    window_ms = 0 if options is None else options.window_ms
    if not window_ms or model.at_ms < gone.ended_ms + window_ms:
        raise Violation(
            WINDOW, f"ended at {gone.ended_ms}, taken again at {model.at_ms}, window {window_ms} ms", gone.task_id
        )
