"""One run: a mesh, its clients, whoever breaks it, and whoever looks on. First safety under faults, then healing.

After the faults end, everything must come right within a bounded time: one leader that all follow, equal tables,
every task that was accepted at its end, and fresh tasks done.
"""

import msgspec

from mesh.config import NodeConfig
from mesh.events import Event
from mesh.ids import NodeId, TaskId
from mesh.ledger.task import DEAD
from mesh.messages import TaskSpec
from mesh.node import Node
from mesh.raft.replica import Role
from mesh.sim.agents import Script, SideEffects
from mesh.sim.bystanders import Operator, Reader, Saboteur
from mesh.sim.checker import Checker
from mesh.sim.clients import Client
from mesh.sim.coverage import Coverage
from mesh.sim.disk import Disk
from mesh.sim.machine import Machine, MakeNode
from mesh.sim.model import OVER
from mesh.sim.nemesis import Nemesis
from mesh.sim.network import Host, Network
from mesh.sim.plan import Plan, draw
from mesh.sim.promise import Promise
from mesh.sim.ruler import Ruler
from mesh.sim.schedule import Schedule, dice
from mesh.sim.upheaval import Upheaval
from mesh.sim.violation import Violation
from mesh.sim.watching import Watcher, Watchers
from mesh.wire.codec import encode

FIRED_MAX = 3_000_000
"""A run that needs more than this is going in circles."""

STEP_MS = 250
START_MS_MAX = 300
FRESH_TASKS = 3
ENDED = (*OVER, DEAD)


class Verdict(msgspec.Struct, frozen=True):
    """How a run went. `invariant` is empty if nothing was broken."""

    seed: int
    events: int
    trace: str
    virtual_ms: int
    coverage: dict[str, int]
    invariant: str = ""
    detail: str = ""
    task_id: str = ""


class World:
    """Everything of one run, under one clock."""

    def __init__(self, plan: Plan, make_node: MakeNode = Node, watchers: tuple[Watcher, ...] = ()) -> None:
        self.plan = plan
        self.schedule = Schedule()
        self.coverage = Coverage()
        self.machines: list[Machine] = []
        self._by_id: dict[str, Machine] = {}
        hosts: dict[str, Host] = {}
        self.network = Network(plan, self.schedule, self.coverage, self._deliver, hosts)
        self.side_effects = SideEffects()
        disks: dict[str, Disk] = {}
        self.checker = Checker(self.coverage, disks, dict(zip(plan.host_ids, plan.slots, strict=True)))
        self.checker.history.in_flight_max = plan.dispatch.entries_in_flight_max
        self.checker.history.doubles = bool(plan.strength("duplicate") or plan.strength("replay"))
        watcher = Watchers((*watchers, self.checker)) if watchers else self.checker
        for config in configs(plan):
            machine = Machine(
                plan, config, self.schedule, self.network, self.coverage, self.side_effects, make_node, watcher
            )
            self.machines.append(machine)
            self._by_id[config.node_id] = hosts[config.node_id] = machine
            disks[config.node_id] = machine.disk
        roll = dice(plan.seed, "start")
        for machine in self.machines[: len(plan.node_ids)]:
            self.schedule.after(roll.randrange(START_MS_MAX * 1_000), machine.start)
        self.clients = [
            Client(number, plan, self.schedule, self.coverage, self.machines, self.checker)
            for number in range(plan.clients)
        ]
        self.saboteur = Saboteur(plan, self.schedule, self.coverage, self.machines, self.checker)
        self.reader = Reader(plan, self.schedule, self.coverage, self.machines, self.checker)
        self.operator = Operator(plan, self.schedule, self.machines, self.checker)
        self.ruler = Ruler(plan, self.schedule, self.coverage, self.machines, self.checker)
        promise = Promise(plan, self.schedule, self.network, self.machines, self.checker.committed_configuration)
        self.upheaval = Upheaval(
            plan, self.schedule, self.coverage, self.machines, self.operator, promise, self.leader_id
        )
        self.nemesis = Nemesis(
            plan,
            self.schedule,
            self.coverage,
            self.network,
            self.machines,
            self.clients,
            self.operator,
            self.upheaval,
            self.leader_id,
        )

    def run(self) -> None:
        """Both phases. Raises Violation."""
        self.run_ms(self.plan.safety_ms)
        self.settle()

    def settle(self) -> None:
        """The second phase: heal everything, and demand that everything comes right. Raises Violation."""
        self.nemesis.heal()
        self.saboteur.is_done = self.reader.is_done = True
        self.ruler.calm_down()
        self._converge("26 everything comes right after healing")
        for client in self.clients:
            for number in range(FRESH_TASKS):
                script = Script(f"fresh {number}", run_us=1_000)
                task_id = TaskId(f"{client.name}-fresh-{number}")
                client.wish(TaskSpec(task_id, "code", encode(script), source=client.name), script)
        self._converge("26 fresh tasks are done after healing")
        self.checker.finish(self.machines)
        ledger = self.machine(self.leader_id() or "").node.ledger
        self.checker.history.judge([*ledger.tasks, *ledger.finished])

    def machine(self, node_id: str) -> Machine:
        """A host by name."""
        return self._by_id[node_id]

    def run_ms(self, duration_ms: int) -> None:
        """Let so much time pass."""
        self.schedule.run_until(self.schedule.now_us + duration_ms * 1_000, FIRED_MAX)
        if self.schedule.fired >= FIRED_MAX:
            raise Violation(
                "24 every bound holds", f"{FIRED_MAX} things happened in {self.schedule.now_us // 1_000} ms"
            )

    def leader_id(self) -> str | None:
        """Who leads the latest term, of those that run."""
        leaders = [
            (machine.node.raft.term, machine.node_id)
            for machine in self.machines
            if machine.is_up and machine.node.raft.role is Role.LEADER
        ]
        return max(leaders)[1] if leaders else None

    def _converge(self, invariant: str) -> None:
        until_us = self.schedule.now_us + self.plan.heal_ms * 1_000
        while (missing := self.what_is_missing()) and self.schedule.now_us < until_us:
            self.run_ms(STEP_MS)
        if missing:
            detail, task_id = missing
            raise Violation(invariant, f"{detail}, {self.plan.heal_ms} ms after the last fault", task_id)

    def what_is_missing(self) -> tuple[str, str] | None:
        """What is not yet as it must be in the end (and the task it is about); None when all is well."""
        leader = self.leader_id()
        if leader is None:
            return "nobody leads", ""
        apart = self._who_is_apart(leader)
        if apart:
            return apart, ""
        unserved = next((task_id for client in self.clients for task_id in client.unserved()), None)
        if unserved is not None:
            return f"{self.model_state(unserved)}", unserved
        for task_id in self.checker.acked_ids():
            if self.checker.record.model.tasks[task_id].state not in ENDED:
                return f"{self.model_state(task_id)}", task_id
        ledgers = [machine.node.ledger for machine in self.machines if machine.is_up]
        if any(
            (ledger.applied_index, ledger.digest) != (ledgers[0].applied_index, ledgers[0].digest) for ledger in ledgers
        ):
            return f"tables differ: {[ledger.applied_index for ledger in ledgers]}", ""
        return None

    def _who_is_apart(self, leader: str) -> str:
        """Who does not take part as it should: all that run are members and follow, all members run, and as many have
        a vote as are wanted. Empty if all is well.
        """
        raft = self.machine(leader).node.raft
        configuration = raft.configuration
        for machine in self.machines:
            member = configuration.member(NodeId(machine.node_id))
            if not machine.is_up:
                if member is not None or not machine.is_parked:
                    return f"{machine.node_id} does not run; the mesh has it as {member}"
                continue
            if member is None or member.mark not in ("", machine.mark):
                return f"{machine.node_id} with log {machine.mark} runs, and the mesh has it as {member}"
            mine = machine.node.raft
            if mine.leader_id != leader or mine.term != raft.term:
                return f"{machine.node_id} follows {mine.leader_id} in term {mine.term}, not {leader} in {raft.term}"
        able = len(configuration.voters) + sum(1 for learner in configuration.learners if not learner.held_back)
        if len(configuration.voters) < min(self.plan.membership.voters_wanted, able):
            return f"votes are wanting: {configuration}"
        return ""

    def model_state(self, task_id: TaskId) -> str:
        """Where a task stands, in words."""
        task = self.checker.record.model.tasks.get(task_id)
        return (
            "a task was never accepted" if task is None else f"a task has not ended, or its client was not told: {task}"
        )

    def _deliver(self, node_id: str, event: Event) -> None:
        self._by_id[node_id].receive(event)


def configs(plan: Plan) -> list[NodeConfig]:
    """One for each host: founders with the founding list, spares without."""
    addresses = [(node_id, f"10.0.0.{number + 1}:21000") for number, node_id in enumerate(plan.host_ids)]
    founders = len(plan.node_ids)
    return [
        NodeConfig(
            node_id=node_id,
            cluster="sim",
            incarnation=0,
            address=address,
            voters=tuple(addresses[:founders]) if number < founders else (),
            slots=plan.slots[number],
            raft=plan.raft,
            gossip=plan.gossip,
            dispatch=plan.dispatch,
            membership=plan.membership,
        )
        for number, (node_id, address) in enumerate(addresses)
    ]


def run_seed(seed: int, plan: Plan | None = None, watchers: tuple[Watcher, ...] = ()) -> Verdict:
    """Run one seed, or a plan drawn otherwise, from its beginning to its end or to the first broken invariant."""
    world = World(draw(seed) if plan is None else plan, watchers=watchers)
    broken = ("", "", "")
    try:
        world.run()
    except Violation as violation:
        broken = (violation.invariant, violation.detail, violation.task_id)
    except AssertionError as failure:
        broken = ("0 the code's own assertions hold", f"{failure}{_where(failure)}", "")
    return Verdict(
        seed,
        world.checker.events,
        world.checker.trace_hash(),
        world.schedule.now_us // 1_000,
        dict(sorted(world.coverage.counts.items())),
        *broken,
    )


def _where(failure: BaseException) -> str:
    """The innermost line of mesh/ that an exception came through."""
    where, step = "", failure.__traceback__
    while step is not None:
        code = step.tb_frame.f_code
        where = f" ({code.co_filename.rpartition('mesh/')[2]}:{step.tb_lineno} in {code.co_name})"
        step = step.tb_next
    return where
