"""Whoever runs the mesh as a whole: changes its settings, pauses queues, orders what means many tasks, keeps schedules.

After the faults he takes back whatever would keep tasks waiting, and says so again until it must have been heard.
"""

from collections.abc import Callable

from mesh.ids import TaskId
from mesh.messages import Action, Answer, ClientReply, Code, Order
from mesh.options import CatchUp, Concurrency, CronSpec, Dependents, Options, Overlap, Selection, WhenFull
from mesh.sim.agents import Script
from mesh.sim.coverage import Coverage
from mesh.sim.line import RULER_REQUESTS, Line, Oracle
from mesh.sim.machine import Machine
from mesh.sim.plan import Plan
from mesh.sim.schedule import Schedule, dice
from mesh.sim.treatment import EPOCH_MS
from mesh.wire.codec import encode

AGAIN_US = 1_500_000
CALMING_ROUNDS = 10
CAPABILITIES = ("code", "plan", "rare")
SETTINGS: dict[str, tuple[int, ...]] = {
    "strategy": (0, 1, 2, 3, 4, 5),
    "breaker_failures": (0, 2, 5),
    "breaker_successes": (1, 2),
    "breaker_open_ms": (200, 1_000, 3_000),
    "ageing_ms": (0, 300, 60_000),
    "ageing_steps_max": (0, 4, 100),
    "oldest_every": (0, 3, 20),
    "reserve_permille": (0, 50, 300),
    "health_permille_min": (0, 500, 900),
    "dead_letters_max": (5, 100_000),
    "alone_after_crashes": (1, 2),
    "dead_after_crashes": (1, 2, 3),
}
HARMLESS = {
    "breaker_open_ms": 500,
    "health_permille_min": 0,
    "dead_letters_max": 100_000,
    "reserve_permille": 50,
}
"""What settings are put to in the end, so that everything can come right."""
PERIODS = ("@every 1s", "@every 2s", "@every 5s")


class Ruler:
    """Gives orders to any node, without insisting on any of them until the end."""

    def __init__(
        self, plan: Plan, schedule: Schedule, coverage: Coverage, machines: list[Machine], oracle: Oracle
    ) -> None:
        self._plan = plan
        self._schedule = schedule
        self._coverage = coverage
        self._machines = machines
        self._oracle = oracle
        self._dice = dice(plan.seed, "ruler")
        self._line = Line(plan, schedule, self._dice, machines, self._hear, oracle.history)
        self._request = RULER_REQUESTS
        self._is_calm = False
        self._rulings: tuple[Callable[[], None], ...] = (
            self._set,
            self._set,
            self._pause,
            self._resume,
            self._reprioritize,
            self._close_breaker,
            self._mean_many,
            self._mean_many,
            self._keep_schedules,
            self._keep_schedules,
        )
        if plan.ruling_ms:
            self._schedule.after(self._pause_us(), self._rule)

    def calm_down(self, rounds: int = CALMING_ROUNDS) -> None:
        """Nothing new, and nothing that lasts: queues go on, schedules end, breakers are tried again soon."""
        self._is_calm = True
        self._line.loss = self._line.duplicate = 0
        self._line.dial()
        for name, value in HARMLESS.items():
            self._order(Action.SET, name, encode(value))
        for capability in CAPABILITIES:
            self._order(Action.RESUME, capability)
        for number in range(self._plan.crons_max):
            self._order(Action.DROP_CRON, f"every{number}")
        if rounds:
            self._schedule.after(AGAIN_US, self.calm_down, rounds - 1)

    # --- what he decides ----------------------------------------------------------------------------------------------

    def _rule(self) -> None:
        if self._is_calm:
            return
        self._schedule.after(self._pause_us(), self._rule)
        if not self._line.is_up or self._dice.random() < 0.3:
            self._line.dial()
        self._dice.choice(self._rulings)()

    def _set(self) -> None:
        name = self._dice.choice(list(SETTINGS))
        self._order(Action.SET, name, encode(self._dice.choice(SETTINGS[name])))

    def _pause(self) -> None:
        until = b""
        if self._dice.random() < 0.7:
            until = encode(self._now_ms() + self._dice.choice((100, 1_000, 5_000)))
        self._order(Action.PAUSE, self._dice.choice(CAPABILITIES), until)

    def _resume(self) -> None:
        for capability in CAPABILITIES:
            self._order(Action.RESUME, capability)

    def _reprioritize(self) -> None:
        for task_id in self._some_tasks(5):
            self._order(Action.REPRIORITIZE, task_id, encode(self._dice.choice((0, 1, 5, 9))))

    def _close_breaker(self) -> None:
        node_id = self._dice.choice(self._plan.host_ids)
        self._order(Action.CLOSE_BREAKER, f"{node_id}/{self._dice.choice(CAPABILITIES)}")

    def _mean_many(self) -> None:
        """Cancel, put back, give up, or only ask which tasks that would be."""
        roll = self._dice
        action = roll.choice((Action.CANCEL_MANY, Action.RETRY_MANY, Action.RETRY_MANY, Action.DROP_MANY, Action.CLEAR))
        if action == Action.CLEAR:
            self._order(action, str(roll.choice((1, 5, 9))))
            return
        wanted = Selection(
            task_ids=tuple(self._some_tasks(5)) if roll.random() < 0.5 else (),
            node=roll.choice(self._plan.host_ids) if roll.random() < 0.2 else "",
            capability=roll.choice(CAPABILITIES),
            priority_min=roll.choice((None, 5, 9)),
            error=roll.choice(("", "", "ValueError", "node_lost", "timeout_run")),
            is_dry=roll.random() < 0.3,
            dependents=roll.choice(list(Dependents)),
            limit=roll.choice((3, 1_000)),
        )
        self._order(action, "", encode(wanted))

    def _keep_schedules(self) -> None:
        roll = self._dice
        if not self._plan.crons_max:
            return
        name = f"every{roll.randrange(self._plan.crons_max)}"
        if roll.random() < 0.2:
            self._order(Action.DROP_CRON, name)
            return
        limited = Options(concurrency=Concurrency("c1", 2, roll.choice(list(WhenFull))))
        spec = CronSpec(
            name,
            roll.choice(PERIODS),
            "code",
            encode(Script(name, run_us=roll.choice((1_000, 1_500_000)))),
            priority=roll.choice((1, 5)),
            overlap=roll.choice(list(Overlap)),
            catch_up=roll.choice(list(CatchUp)),
            jitter_ms=roll.choice((0, 300)),
            options=limited if roll.random() < 0.2 else None,
            is_paused=roll.random() < 0.1,
        )
        self._order(Action.SET_CRON, name, encode(spec))

    # --- parts --------------------------------------------------------------------------------------------------------

    def _pause_us(self) -> int:
        return 50_000 + int(self._dice.expovariate(1.0) * self._plan.ruling_ms * 1_000)

    def _now_ms(self) -> int:
        return EPOCH_MS + self._schedule.now_us // 1_000

    def _some_tasks(self, count: int) -> list[TaskId]:
        known = self._oracle.acked_ids()[-40:]
        return self._dice.sample(known, min(count, len(known)))

    def _order(self, action: Action, target: str, value: bytes = b"") -> None:
        if self._line.is_up or self._line.dial():
            self._request += 1
            self._line.say(Order(self._request, action, target, "the ruler's will", value))

    def _hear(self, reply: ClientReply) -> None:
        if isinstance(reply, Answer) and reply.code == Code.OK:
            self._coverage.add("ruling carried out")
