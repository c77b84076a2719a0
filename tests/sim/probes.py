"""Those who ask from outside while a story goes: one that submits each task once and never again, one that follows the
events, one that says what the story has him say. And wires to cut.
"""

import itertools
from typing import Any

import msgspec

from mesh.documents import EventPage
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
    TaskEnd,
    TasksEnded,
    TaskSpec,
    TasksRefused,
)
from mesh.options import Options
from mesh.sim.agents import Script
from mesh.sim.line import Line
from mesh.sim.plan import Plan
from mesh.sim.schedule import dice
from mesh.sim.world import World
from mesh.wire.codec import encode

PROBE_REQUESTS = 400_000_000
"""Above those of all clients of the simulator."""
PERSON_REQUESTS = 500_000_000
PAGE_EVENTS = 40


def cut(world: World, few: list[str], many: list[str]) -> None:
    """Nothing passes between the few and the many."""
    for one, other in itertools.product(few, many):
        world.network.cut(one, other)
        world.network.cut(other, one)


def mend(world: World, few: list[str], many: list[str]) -> None:
    for one, other in itertools.product(few, many):
        world.network.mend(one, other)
        world.network.mend(other, one)


def quiet(plan: Plan) -> World:
    """A mesh of which nobody asks anything but the probes of a test."""
    world = World(msgspec.structs.replace(plan, tasks_max=0, clients=1))
    world.clients[0].is_done_wishing = True
    world.saboteur.is_done = world.reader.is_done = True
    return world


def leader(world: World) -> str:
    found = world.leader_id()
    assert found is not None
    return found


def terms(world: World) -> int:
    """The latest term of any process that runs."""
    return max(int(machine.node.raft.term) for machine in world.machines if machine.is_up)


class Prober:
    """Every so often submits another task, once, to the leader or to anybody. What it hears of it is kept."""

    def __init__(self, world: World, pause_ms: int, *, at_leader: bool, run_us: int = 1_000) -> None:
        self._world = world
        self._pause_us = pause_ms * 1_000
        self._at_leader = at_leader
        self._run_us = run_us
        self._dice = dice(world.plan.seed, "prober")
        self._line = Line(world.plan, world.schedule, self._dice, world.machines, self._hear, world.checker.history)
        self._line.duplicate = 0
        self.asked_us: dict[TaskId, int] = {}
        self.took_us: dict[TaskId, int] = {}
        """From the submit until it was told "accepted"."""
        self.refused: dict[TaskId, int] = {}
        """With which code."""
        self.is_done = False
        self._ask()

    def _ask(self) -> None:
        if self.is_done:
            return
        self._world.schedule.after(self._pause_us, self._ask)
        found = self._world.leader_id() if self._at_leader else None
        number = None if found is None else self._world.plan.host_ids.index(found)
        is_kept = self._line.machine is self._world.machine(found) if found else self._is_served()
        if not (self._line.is_up and is_kept) and not self._line.dial(number):
            return
        task_id = TaskId(f"probe-{len(self.asked_us) + 1}")
        self.asked_us[task_id] = self._world.schedule.now_us
        spec = TaskSpec(task_id, "code", encode(Script(task_id, run_us=self._run_us)), source="prober")
        self._line.say(SubmitTasks(False, [spec]))

    def _is_served(self) -> bool:
        """Whether the last one was accepted. Who does not say so may be paused, or alone."""
        last = next(reversed(self.asked_us), None)
        return last is None or last in self.took_us

    def _hear(self, reply: ClientReply) -> None:
        if isinstance(reply, Accepted):
            for task_id in reply.task_ids:
                self.took_us[task_id] = self._world.schedule.now_us - self.asked_us[task_id]
        elif isinstance(reply, TasksRefused):
            self.refused |= {refusal.task_id: refusal.code for refusal in reply.refusals}

    def p99_ms(self, since: int = 0) -> float:
        """Of those asked after the first `since`. One without an answer counts as having taken for ever."""
        took = sorted(self.took_us.get(task_id, 1 << 60) for task_id in list(self.asked_us)[since:])
        return took[(len(took) * 99 - 1) // 100] / 1_000


class Subscriber:
    """Follows the events from a cursor on, at one node after the other, and goes on where it was after every break."""

    def __init__(self, world: World, number: int) -> None:
        self._world = world
        self._dice = dice(world.plan.seed, f"subscriber {number}")
        self._line = Line(world.plan, world.schedule, self._dice, world.machines, self._hear, world.checker.history)
        self._request = PROBE_REQUESTS + number * 1_000_000
        self._cursor = ""
        self.heard: list[tuple[int, bytes]] = []
        """Log index of each event, and all it says."""
        self.nodes: dict[str, int] = {}
        """How many pages came from whom."""
        self._ask()

    def _ask(self) -> None:
        self._world.schedule.after(self._dice.randint(20_000, 300_000), self._ask)
        if not self._line.is_up or self._dice.random() < 0.1:
            self._line.dial()
        self._request += 1
        is_stale = self._dice.random() < 0.5
        self._line.say(Ask(self._request, Question.EVENTS, is_stale, after=self._cursor, limit=PAGE_EVENTS))

    def _hear(self, reply: ClientReply) -> None:
        if not isinstance(reply, Answer) or reply.request != self._request or reply.code != Code.OK:
            return  # A late answer to an earlier question: its cursor is not where we stand.
        page = msgspec.msgpack.decode(reply.body, type=EventPage)
        self._cursor = page.next
        self.heard += [(event.index, encode(event)) for event in page.events]
        if self._line.machine is not None and page.events:
            name = self._line.machine.node_id
            self.nodes[name] = self.nodes.get(name, 0) + 1


class Person:
    """One who says what he wants to a node of his choice, once, and remembers all he hears."""

    def __init__(self, world: World) -> None:
        self._world = world
        self._dice = dice(world.plan.seed, "person")
        self._line = Line(world.plan, world.schedule, self._dice, world.machines, self._hear, world.checker.history)
        self._request = PERSON_REQUESTS
        self.accepted: list[TaskId] = []
        self.refused: dict[TaskId, str] = {}
        self.ends: dict[TaskId, TaskEnd] = {}
        self.answers: list[tuple[Code, str]] = []

    def call(self, node_id: str) -> None:
        """From here on talk to this node."""
        assert self._line.dial(self._world.plan.host_ids.index(node_id))

    def submit(self, *specs: TaskSpec) -> None:
        self._line.say(SubmitTasks(True, list(specs)))

    def order(self, action: Action, target: str = "", value: bytes = b"") -> None:
        self._request += 1
        self._line.say(Order(self._request, action, target, "a person's will", value))

    def _hear(self, reply: ClientReply) -> None:
        if isinstance(reply, Accepted):
            self.accepted += reply.task_ids
        elif isinstance(reply, TasksRefused):
            self.refused |= {refusal.task_id: refusal.message for refusal in reply.refusals}
        elif isinstance(reply, TasksEnded):
            self.ends |= {end.task_id: end for end in reply.ends}
        elif isinstance(reply, Answer):
            self.answers.append((Code(reply.code), reply.message))


def task(name: str, script: Script, *, priority: int = 5, max_attempts: int = 3, **options: Any) -> TaskSpec:
    """A task for anybody who offers `code`, with such options."""
    treated = Options(**options) if options else None
    return TaskSpec(TaskId(name), "code", encode(script), priority, max_attempts, options=treated)
