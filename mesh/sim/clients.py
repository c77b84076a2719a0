"""Those outside: they submit under ids of their own, ask again when they hear nothing, and remember what they heard.

An outcome that was not heard is unknown, never failed: the same id is sent again, to another node perhaps. What a
client was promised goes into the `Oracle`, which outlives it.
"""

import msgspec

from mesh.ids import TaskId
from mesh.ledger.task import DEAD, FINISHED
from mesh.messages import (
    Accepted,
    Action,
    Answer,
    Ask,
    ClientReply,
    Code,
    LeaderHint,
    Order,
    Question,
    SubmitTasks,
    TaskEnd,
    TasksEnded,
    TaskSpec,
    TasksRefused,
    WatchTasks,
)
from mesh.options import LossPolicy
from mesh.sim.agents import Script
from mesh.sim.coverage import Coverage
from mesh.sim.line import ASKED_MAX, REQUESTS_MAX, Line, Oracle, read_is_fresh
from mesh.sim.machine import Machine
from mesh.sim.plan import Plan
from mesh.sim.schedule import Schedule, dice
from mesh.sim.treatment import Treatment
from mesh.sim.violation import Violation
from mesh.wire.codec import encode

PATIENCE_US = (400_000, 1_500_000)
SWEEP_US = 250_000
QUIET_US = (1_500_000, 4_000_000)
DROPS_MAX = 24
BOUND_US = 10_000_000
"""For so long after healing, whoever may run on some nodes only is waited for."""


class Wish(msgspec.Struct):
    """One task a client wants done. `asked_us` is when it was last submitted, None before or when refused."""

    spec: TaskSpec
    script: Script
    asked_us: int | None = None
    not_before_us: int = 0
    is_acked: bool = False
    is_watched: bool = False
    drops: int = 0
    end: TaskEnd | None = None


def is_held_if_lost(wish: Wish) -> bool:
    """Whether it may wait for a person."""
    return wish.spec.options is not None and wish.spec.options.on_loss == LossPolicy.HOLD


class Client:
    """Submits tasks until it has submitted enough, and waits for their ends."""

    def __init__(
        self,
        number: int,
        plan: Plan,
        schedule: Schedule,
        coverage: Coverage,
        machines: list[Machine],
        oracle: Oracle,
    ) -> None:
        self.name = f"c{number + 1}"
        self.wishes: dict[TaskId, Wish] = {}
        self.is_done_wishing = False
        self._plan = plan
        self._schedule = schedule
        self._coverage = coverage
        self._machines = machines
        self._oracle = oracle
        self._dice = dice(plan.seed, f"client {number}")
        self._treatment = Treatment(plan, number)
        self._wishes_max = plan.tasks_max // plan.clients + 1
        self._line = Line(plan, schedule, self._dice, machines, self._hear, oracle.history)
        self._patience_us = self._dice.randint(*PATIENCE_US)
        self._request = self._first_request = (number + 1) * REQUESTS_MAX
        self._asked: dict[int, tuple[TaskId, int | None]] = {}
        """Open TASK questions: the task, and the state it was known to have ended in."""
        self._calm_us = 0
        self._ordered: dict[int, TaskId] = {}
        """Open RETRY orders."""
        schedule.after(self._dice.randint(1_000, 400_000), self._wish)
        schedule.after(SWEEP_US, self._sweep)

    def crash(self) -> None:
        """The client's process dies and comes back with its list of wishes, but knows no outcome."""
        self._line.hang_up()
        for wish in self.wishes.values():
            wish.is_acked = wish.is_watched = False
            wish.asked_us = None
            if wish.end is not None and wish.end.state == DEAD:
                wish.end = None
        self._asked.clear()
        self._ordered.clear()

    def calm_down(self) -> None:
        """No new wishes; nothing is lost on the line any more."""
        self.is_done_wishing = True
        self._calm_us = self._schedule.now_us
        self._line.loss = self._line.duplicate = 0

    def unserved(self) -> list[TaskId]:
        """What it still waits for."""
        return [task_id for task_id, wish in self.wishes.items() if wish.end is None]

    def wish(self, spec: TaskSpec, script: Script) -> None:
        """Want one task done."""
        self.wishes[spec.task_id] = Wish(spec, script)
        self._submit([self.wishes[spec.task_id]])

    # --- what it does of its own accord -------------------------------------------------------------------------------

    def _wish(self) -> None:
        if self.is_done_wishing or len(self.wishes) >= self._wishes_max:
            return
        fresh = []
        for _ in range(self._dice.randint(1, self._plan.burst)):
            number = len(self.wishes) + 1
            spec, script = self._draw(TaskId(f"{self.name}-{number}"))
            self.wishes[spec.task_id] = wish = Wish(spec, script)
            fresh.append(wish)
        self._submit(fresh)
        pause_us = int(self._dice.expovariate(1.0) * self._plan.submit_pause_ms * 1_000)
        if self._dice.random() * 1_000 < self._plan.quiet_permille:
            pause_us += self._dice.randint(*QUIET_US)
        self._schedule.after(pause_us, self._wish)

    def _draw(self, task_id: TaskId) -> tuple[TaskSpec, Script]:
        roll, plan = self._dice, self._plan
        is_failing = roll.random() * 1_000 < plan.failing_permille
        script = Script(
            name=task_id,
            failures=roll.choice((1, 1, 2, 9)) if is_failing else 0,
            is_final=is_failing and roll.random() < 0.1,
            run_us=int(roll.expovariate(1.0) * plan.attempt_us),
            checkpoints=roll.randint(1, 4) if roll.random() * 1_000 < plan.checkpoint_permille else 0,
        )
        capability = roll.choices(("code", "plan", plan.rare_capability), (80, 17, 3))[0]
        delay_ms = roll.randint(1, 2_000) if roll.random() < 0.05 else 0
        spec = TaskSpec(
            task_id,
            capability,
            encode(script),
            priority=roll.choice((1, 5, 5, 9)),
            max_attempts=roll.choice((1, 2, 3, 3)),
            not_before_ms=1_700_000_000_000 + self._schedule.now_us // 1_000 + delay_ms if delay_ms else 0,
            source=self.name,
        )
        return self._treatment.of(spec, script, self._schedule.now_us // 1_000)

    def _sweep(self) -> None:
        """Ask again about what was not heard of for too long; sometimes ask needlessly, cancel, or read."""
        self._schedule.after(SWEEP_US, self._sweep)
        now_us = self._schedule.now_us
        overdue = [
            wish
            for wish in self.wishes.values()
            if wish.end is None
            and not wish.is_acked
            and now_us >= wish.not_before_us
            and (wish.asked_us is None or now_us - wish.asked_us > self._patience_us)
        ]
        if not self._line.is_up or (any(wish.asked_us is not None for wish in overdue) and self._dice.random() < 0.7):
            self._line.dial()
            for wish in self.wishes.values():
                wish.is_watched = False
        self._submit(overdue[:32])
        self._watch()
        if self.is_done_wishing:
            self._give_up()
        elif self.wishes:
            self._fidget()

    def _submit(self, wishes: list[Wish]) -> None:
        if not wishes or (not self._line.is_up and not self._line.dial()):
            return
        for wish in wishes:
            wish.asked_us = self._schedule.now_us
            wish.is_watched = True
        self._line.say(SubmitTasks(True, [wish.spec for wish in wishes]))

    def _watch(self) -> None:
        """After a change of line, and now and then: a promise to tell may have died with a node."""
        unwatched = [
            task_id
            for task_id, wish in self.wishes.items()
            if wish.is_acked and wish.end is None and (not wish.is_watched or self._dice.random() < 0.05)
        ]
        if unwatched and self._line.is_up:
            for task_id in unwatched:
                self.wishes[task_id].is_watched = self._dice.random() < 0.9
            self._line.say(WatchTasks(unwatched))

    def _fidget(self) -> None:
        roll = self._dice
        wish = list(self.wishes.values())[roll.randrange(len(self.wishes))]
        choice = roll.random()
        if choice < 0.10 and wish.is_acked:
            self._coverage.add("same task sent again though accepted")
            self._line.say(SubmitTasks(True, [wish.spec]))
        elif choice < 0.13 and wish.end is None:
            self._line.say(Order(self._next_request(), Action.CANCEL, wish.spec.task_id, "changed my mind"))
        elif choice < 0.15 and is_held_if_lost(wish):
            self._line.say(Order(self._next_request(), Action.RETRY, wish.spec.task_id))
        elif choice < 0.40:
            self._ask(wish)
        elif choice < 0.50:
            question = roll.choice([question for question in Question if question != Question.TASK])
            target = wish.spec.task_id if question == Question.EXPLAIN else ""
            self._line.say(Ask(self._next_request(), question, roll.random() < 0.3, target, limit=roll.randint(1, 20)))

    def _give_up(self) -> None:
        """In the end, cancel what nobody can run, and drop the dead."""
        offered = [
            capability
            for machine, capabilities in zip(self._machines, self._plan.capabilities, strict=True)
            for capability in capabilities
            if not machine.is_parked
        ]
        for task_id, wish in self.wishes.items():
            # One whose id may be taken again may live anew, though its end was told: that of an earlier life.
            may_live = wish.end is None or (wish.spec.options is not None and bool(wish.spec.options.window_ms))
            if may_live and self._waits_in_vain(wish, offered) and self._dice.random() < 0.3:
                self._line.say(Order(self._next_request(), Action.CANCEL, task_id, "nobody can run it"))
            elif may_live and is_held_if_lost(wish) and self._dice.random() < 0.3:
                self._line.say(Order(self._next_request(), Action.RETRY, task_id))
            elif wish.end is not None and wish.end.state == DEAD and self._dice.random() < 0.1:
                if wish.drops >= DROPS_MAX:
                    continue
                wish.drops += 1
                # It may have been put back by others, and wait for what never comes: then only a cancel ends it.
                action = Action.DROP if self._dice.random() < 0.6 else Action.CANCEL
                self._line.say(Order(self._next_request(), action, task_id, "not worth it"))

    def _waits_in_vain(self, wish: Wish, offered: list[str]) -> bool:
        """Whether it may be that nobody can ever run it, by its capability, its fallback or its node."""
        options = wish.spec.options
        if wish.spec.capability not in offered:
            return True
        if options is None:
            return False
        if options.fallback and options.fallback not in offered:
            return True
        is_bound = bool(options.require or options.avoid or options.is_sticky_hard)
        return is_bound and self._schedule.now_us - self._calm_us > BOUND_US

    def _ask(self, wish: Wish) -> None:
        if len(self._asked) >= ASKED_MAX:
            self._asked.clear()
        request = self._next_request()
        if wish.is_acked:
            is_final = (
                wish.end is not None and wish.end.state in FINISHED and not self._treatment.is_renewable(wish.spec)
            )
            ended = wish.end.state if wish.end is not None and is_final else None
            self._asked[request] = (wish.spec.task_id, ended)
        self._line.say(Ask(request, Question.TASK, False, wish.spec.task_id))

    def _next_request(self) -> int:
        self._request += 1
        return self._request

    # --- what it hears ------------------------------------------------------------------------------------------------

    def _hear(self, reply: ClientReply) -> None:
        self._is_for_me(reply)
        match reply:
            case Accepted():
                for task_id in reply.task_ids:
                    if self._oracle.is_acked(task_id):
                        self._coverage.add("same task accepted again")
                    self.wishes[task_id].is_acked = True
                    self._oracle.accepted(task_id, reply.index)
            case TasksRefused():
                self._refused(reply)
            case TasksEnded():
                for end in reply.ends:
                    self._ended(end)
            case Answer():
                self._answered(reply)
            case LeaderHint():
                self._hinted(reply)

    def _is_for_me(self, reply: ClientReply) -> None:
        """25: nobody is told what another client asked for, least of all one of an earlier process of his node."""
        task_ids: list[TaskId] = []
        match reply:
            case Accepted():
                task_ids = reply.task_ids
            case TasksRefused():
                task_ids = [refusal.task_id for refusal in reply.refusals]
            case TasksEnded():
                task_ids = [end.task_id for end in reply.ends]
            case Answer() if not self._first_request < reply.request <= self._request:
                raise Violation("25 reads are linearizable", f"{self.name} hears another client's answer: {reply}")
        for task_id in task_ids:
            if task_id not in self.wishes:
                raise Violation(
                    "25 reads are linearizable", f"{self.name} hears what another client asked for", task_id
                )

    def _refused(self, reply: TasksRefused) -> None:
        for refusal in reply.refusals:
            wish = self.wishes[refusal.task_id]
            if refusal.code == Code.CONFLICT:
                raise Violation("23 duplicates collapse", "a task conflicts with itself", refusal.task_id)
            if refusal.code not in (Code.BACKPRESSURE, Code.UNAVAILABLE):
                raise Violation("23 duplicates collapse", f"refused: {refusal.code} {refusal.message}", refusal.task_id)
            self._coverage.add("backpressure answered" if refusal.code == Code.BACKPRESSURE else "unavailable answered")
            wish.asked_us = None
            wish.not_before_us = self._schedule.now_us + self._dice.randint(50_000, 600_000)
        if any(refusal.code == Code.UNAVAILABLE for refusal in reply.refusals) and self._dice.random() < 0.3:
            self._line.dial()
            for wish in self.wishes.values():
                wish.is_watched = False

    def _ended(self, end: TaskEnd) -> None:
        wish = self.wishes[end.task_id]
        if end.state == -1:
            if wish.is_acked:
                raise Violation("17 no acked task is lost", "a watcher was told there is no such task", end.task_id)
            return
        if not self._treatment.is_renewable(wish.spec):
            self._oracle.ended(end)
        wish.end = end
        wish.is_acked = True
        if end.state == DEAD:
            choice = self._dice.random()
            if choice < 0.4 and not self.is_done_wishing:
                request = self._next_request()
                self._ordered[request] = end.task_id
                revised = self._treatment.revised(wish.spec, wish.script)
                self._line.say(Order(request, Action.RETRY, end.task_id, value=revised))
            elif choice < 0.5 or self.is_done_wishing:
                self._line.say(Order(self._next_request(), Action.DROP, end.task_id, "not worth it"))

    def _answered(self, answer: Answer) -> None:
        task_id = self._ordered.pop(answer.request, None)
        if task_id is not None and answer.code == Code.OK:
            self.wishes[task_id].end = None
            self.wishes[task_id].is_watched = False
        asked = self._asked.pop(answer.request, None)
        if asked is None:
            return
        task_id, ended = asked
        read_is_fresh(self._coverage, answer, task_id, ended)

    def _hinted(self, hint: LeaderHint) -> None:
        if hint.leader is None or self._line.machine is None or self._line.machine.node_id == hint.leader:
            return
        if self._dice.random() < 0.3:
            self._line.dial(self._plan.host_ids.index(hint.leader))
            for wish in self.wishes.values():
                wish.is_watched = False
