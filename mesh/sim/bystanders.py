"""Three who are no ordinary clients: one tries to take ids that are taken, one compares, one gives orders."""

from mesh.ids import TaskId
from mesh.messages import (
    Accepted,
    Action,
    Answer,
    Ask,
    ClientReply,
    Code,
    Order,
    Question,
    SubmitTasks,
    TaskSpec,
    TasksRefused,
)
from mesh.sim.agents import Script
from mesh.sim.coverage import Coverage
from mesh.sim.line import ASKED_MAX, READER_REQUESTS, Line, Oracle, read_is_fresh
from mesh.sim.machine import Machine
from mesh.sim.plan import Plan
from mesh.sim.schedule import Schedule, dice
from mesh.sim.violation import Violation
from mesh.wire.codec import encode

AGAIN_US = 300_000
"""Pause before an order is said again."""


class Saboteur:
    """Submits another payload under ids that were accepted. It must always be told that they conflict."""

    def __init__(
        self, plan: Plan, schedule: Schedule, coverage: Coverage, machines: list[Machine], oracle: Oracle
    ) -> None:
        self._schedule = schedule
        self._coverage = coverage
        self._oracle = oracle
        self._dice = dice(plan.seed, "saboteur")
        self._line = Line(plan, schedule, self._dice, machines, self._hear, oracle.history)
        self.is_done = False
        self._act()

    def _act(self) -> None:
        if self.is_done:
            return
        self._schedule.after(self._dice.randint(300_000, 2_500_000), self._act)
        victims = self._oracle.acked_ids()
        if victims and (self._line.is_up or self._line.dial()):
            victim = victims[self._dice.randrange(len(victims))]
            spec = TaskSpec(victim, "code", encode(Script("another payload")), source="saboteur")
            self._line.say(SubmitTasks(False, [spec]))

    def _hear(self, reply: ClientReply) -> None:
        if isinstance(reply, Accepted) and reply.task_ids:
            raise Violation("23 duplicates collapse", "another payload was accepted under its id", reply.task_ids[0])
        if isinstance(reply, TasksRefused) and any(refusal.code == Code.CONFLICT for refusal in reply.refusals):
            self._coverage.add("conflict answered")


class Reader:
    """Asks any node about tasks that anybody was told of. What was told once must be read from then on."""

    def __init__(
        self, plan: Plan, schedule: Schedule, coverage: Coverage, machines: list[Machine], oracle: Oracle
    ) -> None:
        self._schedule = schedule
        self._coverage = coverage
        self._oracle = oracle
        self._dice = dice(plan.seed, "reader")
        self._line = Line(plan, schedule, self._dice, machines, self._hear, oracle.history)
        self._request = READER_REQUESTS
        self._asked: dict[int, tuple[TaskId, int | None]] = {}
        """Open questions: the task, and the final state somebody was told of."""
        self.is_done = False
        schedule.after(500_000, self._act)

    def _act(self) -> None:
        if self.is_done:
            return
        self._schedule.after(self._dice.randint(20_000, 400_000), self._act)
        known = self._oracle.acked_ids()
        if not known:
            return
        if not self._line.is_up or self._dice.random() < 0.3:
            self._line.dial()
        task_id = known[max(self._dice.randrange(len(known)), self._dice.randrange(len(known)))]
        self._request += 1
        if len(self._asked) >= ASKED_MAX:
            self._asked.clear()
        self._asked[self._request] = (task_id, self._oracle.final_state(task_id))
        self._line.say(Ask(self._request, Question.TASK, False, task_id))

    def _hear(self, reply: ClientReply) -> None:
        if not isinstance(reply, Answer):
            return
        task_id, final = self._asked.pop(reply.request, (TaskId(""), None))
        if task_id:
            read_is_fresh(self._coverage, reply, task_id, final)


class Operator:
    """Gives orders to nodes: transfer, drain, recover, rebalance, votes. Any node will do to say it to."""

    def __init__(self, plan: Plan, schedule: Schedule, machines: list[Machine], oracle: Oracle) -> None:
        self._schedule = schedule
        self._dice = dice(plan.seed, "operator")
        self._line = Line(plan, schedule, self._dice, machines, self._hear, oracle.history)
        self._request = 0
        self._insisting: dict[int, tuple[Action, str, int]] = {}
        """Orders that are given again when they could not be carried out just then, with the tries left."""

    def order(self, action: Action, target: str = "", insist: int = 0) -> None:
        """One order, perhaps in vain. `insist`: how often to say it again to whoever could not do it."""
        if self._line.is_up or self._line.dial():
            self._request += 1
            if insist:
                self._insisting = {self._request: (action, target, insist)}
            self._line.say(Order(self._request, action, target, "an operator's whim"))

    def calm_down(self) -> None:
        self._insisting.clear()
        self._line.loss = self._line.duplicate = 0
        self._line.dial()

    def _hear(self, reply: ClientReply) -> None:
        """What was done is done; what could not be done just now may be said again."""
        if not isinstance(reply, Answer):
            return
        again = self._insisting.pop(reply.request, None)
        if again is not None and reply.code == Code.UNAVAILABLE:
            action, target, tries = again
            self._schedule.after(AGAIN_US, self.order, action, target, tries - 1)
