"""How a client wants its tasks to be treated: options, drawn at random, and never so that nobody could keep to them.

Rates, concurrency keys and nodes of one's own choice make tasks wait for each other. How long they do altogether is
kept count of, so that everything still ends in time once the faults are over.
"""

from typing import Any

import msgspec

from mesh.ids import TaskId
from mesh.messages import TaskSpec
from mesh.options import Concurrency, Labels, LossPolicy, Options, Rate, Retry, WhenFull
from mesh.sim.agents import Script
from mesh.sim.plan import Plan
from mesh.sim.schedule import dice
from mesh.wire.codec import encode

EPOCH_MS = 1_700_000_000_000
"""What o'clock it is when a run begins."""
QUEUE_US = 12_000_000
"""No queue behind one limit takes longer than this, all clients together."""
RATES = (("r1", (1_000,)), ("r2", (200,)), ("r3", (3_000,)), ("r4", (300, 2_000)))
"""Keys and their times. Tasks name them with different limits, for each time one."""
SPANS_MS = (80, 400, 2_000)


class Treatment:
    """One client's taste."""

    def __init__(self, plan: Plan, number: int) -> None:
        self._plan = plan
        self._dice = dice(plan.seed, f"treatment {number}")
        self._queues_us: dict[str, float] = {}
        """How long the tasks drawn so far take behind each limit."""
        self._parents: list[TaskId] = []

    def of(self, spec: TaskSpec, script: Script, now_ms: int) -> tuple[TaskSpec, Script]:
        """The task with its options, if it has any."""
        roll = self._dice
        if roll.random() * 1_000 >= self._plan.treated_permille:
            return spec, script
        wanted: dict[str, Any] = {}
        for draw in (self._limits, self._place, self._times, self._ends):
            if roll.random() < 0.4:
                wanted |= draw(script, now_ms)
        if roll.random() < 0.08:
            script = msgspec.structs.replace(script, crashes=roll.choice((1, 2, 9)))
            spec = msgspec.structs.replace(spec, payload=encode(script), max_attempts=roll.choice((3, 5)))
        self._parents.append(TaskId(spec.task_id))
        return msgspec.structs.replace(spec, options=Options(**wanted)), script

    def is_renewable(self, spec: TaskSpec) -> bool:
        """Whether its id may be taken again some time after its end."""
        return spec.options is not None and spec.options.window_ms > 0

    def revised(self, spec: TaskSpec, script: Script) -> bytes:
        """What a dead letter is put back with instead of its own payload; empty if that stays."""
        if spec.options is None or self._dice.random() < 0.5:
            return b""
        return encode(msgspec.structs.replace(script, failures=0, crashes=0, is_final=False))

    # --- what is drawn ------------------------------------------------------------------------------------------------

    def _limits(self, script: Script, now_ms: int) -> dict[str, Any]:
        """How many at once, how many in a time, and whose turn it is."""
        roll = self._dice
        wanted: dict[str, Any] = {}
        if roll.random() < 0.5:
            limit = roll.randint(1, 3)
            if self._fits(key := roll.choice(("c1", "c2", "c3")), self._run_us(script) / limit):
                wanted["concurrency"] = Concurrency(key, limit, roll.choice(list(WhenFull)))
        if roll.random() < 0.5:
            key, times_ms = roll.choice(RATES)
            rates = tuple(Rate(key, roll.randint(1, 5), per_ms) for per_ms in times_ms)
            if self._fits(key, max(rate.per_ms * 1_000 / rate.limit for rate in rates)):
                wanted["rates"] = rates
        if roll.random() < 0.5:
            wanted["fairness"] = roll.choice(("f1", "f2", "f3"))
            wanted["weight_permille"] = roll.choice((500, 1_000, 3_000))
        return wanted

    def _place(self, script: Script, now_ms: int) -> dict[str, Any]:
        """Where it may run, and where it rather would."""
        roll = self._dice
        node: Labels = (("node", roll.choice(self._plan.host_ids)),)
        choice = roll.choice(("require", "avoid", "prefer", "sticky", "sticky hard", "location"))
        if choice in ("require", "sticky hard", "avoid") and not self._fits("nodes", self._run_us(script)):
            choice = "prefer"
        if choice == "location":
            return {"location": "here/there"}
        if choice.startswith("sticky"):
            return {"sticky": roll.choice(("s1", "s2")), "is_sticky_hard": choice == "sticky hard"}
        return {choice: node}

    def _times(self, script: Script, now_ms: int) -> dict[str, Any]:
        """How long anything may take."""
        roll = self._dice
        wanted: dict[str, Any] = {}
        for name in ("run_timeout_ms", "progress_timeout_ms", "schedule_timeout_ms"):
            if roll.random() < 0.4:
                wanted[name] = roll.choice(SPANS_MS)
        if roll.random() < 0.3:
            wanted["expires_at_ms"] = EPOCH_MS + now_ms + roll.choice(SPANS_MS)
        return wanted

    def _ends(self, script: Script, now_ms: int) -> dict[str, Any]:
        """What becomes of it when something goes wrong, and afterwards."""
        roll = self._dice
        wanted: dict[str, Any] = {"on_loss": roll.choice((*LossPolicy, LossPolicy.HOLD, LossPolicy.HOLD))}
        if roll.random() < 0.4:
            never = ("ValueError",) if roll.random() < 0.3 else ()
            wanted["retry"] = Retry(roll.choice((0, 50, 700)), 2_000, roll.choice((1_000, 3_000)), 500, never)
        if roll.random() < 0.4:
            wanted["fallback"] = roll.choice(("plan", "plan", "code", self._plan.rare_capability))
        if roll.random() < 0.3 and self._parents:
            wanted["parent"] = roll.choice(self._parents)
        if roll.random() < 0.2:
            wanted["window_ms"] = roll.choice((300, 3_000))
        return wanted

    # --- bounds -------------------------------------------------------------------------------------------------------

    def _run_us(self, script: Script) -> float:
        """About how long it holds what it holds."""
        return script.run_us + self._plan.begin_us + 50 * self._plan.delay_us

    def _fits(self, queue: str, more_us: float) -> bool:
        """Whether one more may wait in a queue; if so, it does."""
        total_us = self._queues_us.get(queue, 0.0) + more_us
        if total_us * self._plan.clients > QUEUE_US:
            return False
        self._queues_us[queue] = total_us
        return True
