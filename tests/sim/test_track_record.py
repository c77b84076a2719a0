"""What others lost or did twice, as stories about the whole mesh (TRACK_RECORD.md says what went wrong, and where).

Every invariant is checked after every event; `settle` demands in the end that all that was accepted is done, that all
tables are equal, and that fresh work is taken.
"""

import itertools
from collections.abc import Callable
from random import Random

import msgspec
import pytest

from mesh.effects import Effect, Reply, Send
from mesh.events import Event
from mesh.ledger.task import COMPLETED
from mesh.messages import Code
from mesh.sim.machine import Machine
from mesh.sim.plan import calm, draw
from mesh.sim.world import World
from tests.sim.probes import Prober, Subscriber, cut, leader, mend, quiet, terms

GRANTS = 30
"""Tag of the message by which a leader hands out work."""


def minorities(nodes: int) -> list[tuple[list[str], str]]:
    """Every choice of a minority and of one node of the others that dies."""
    names = [f"n{number + 1}" for number in range(nodes)]
    return [
        (list(few), victim)
        for few in itertools.combinations(names, nodes // 2)
        for victim in names
        if victim not in few
    ]


def is_there(world: World, prober: Prober) -> bool:
    """Whether everything the prober was told is accepted is in the log."""
    return all(task_id in world.checker.record.model.tasks for task_id in prober.took_us)


@pytest.mark.parametrize("script", ["pause", "partition"])
@pytest.mark.parametrize(("nodes", "writes_ms"), [(3, 30_000), (5, 2_000)])
def test_d2_the_minority_and_one_that_lost_power_are_the_new_majority(script: str, nodes: int, writes_ms: int) -> None:
    """NATS 7567 (Jepsen 2.12.1): a minority sleeps, or is cut off, while writes build up; one of the others dies and
    loses what was not synced; then just that node and the minority go on. Every minority, every victim.
    """
    for few, victim in minorities(nodes):
        world = quiet(calm(60, nodes=nodes, sync_us=3_000))
        world.run_ms(1_500)
        prober = Prober(world, 100, at_leader=False)
        rest = [name for name in world.plan.node_ids if name not in (*few, victim)]
        if script == "pause":
            for name in few:
                world.machine(name).pause()
        else:
            cut(world, few, [victim, *rest])
        world.run_ms(writes_ms)
        built_up = len(prober.took_us)
        assert built_up > writes_ms // 400
        world.machine(victim).crash(silent=script == "pause", keeps_permille=0)
        if script == "pause":
            for name in rest:
                world.machine(name).pause()
            for name in few:
                world.machine(name).resume()
        else:
            mend(world, few, [victim])
            cut(world, rest, [victim])
        world.machine(victim).start()
        world.run_ms(2_500)
        assert leader(world) in (victim, *few)
        assert len(prober.took_us) > built_up
        assert is_there(world, prober)
        prober.is_done = True
        world.settle()
        assert is_there(world, prober)


@pytest.mark.parametrize("kind", ["bit", "torn", "backup"])
@pytest.mark.parametrize("nodes", [3, 5])
def test_d3_damage_on_a_minority_is_set_aside_and_made_good_by_the_others(nodes: int, kind: str) -> None:
    """NATS 7549: single flipped bits on a minority lost hundreds of thousands of messages, because a damaged node could
    lead. Here the disks of a minority, the leader's among them, are damaged while they are down.
    """
    world = quiet(calm(61, nodes=nodes))
    prober = Prober(world, 40, at_leader=False)
    world.run_ms(4_000)
    first = leader(world)
    victims = [first, *(name for name in world.plan.node_ids if name != first)][: nodes // 2]
    roll = Random(61)
    marks = [world.machine(name).mark for name in victims]
    for name in victims:
        machine = world.machine(name)
        machine.crash(silent=False, keeps_permille=500)
        damage = {"bit": lambda disk: disk.flip_a_bit(roll), "torn": lambda disk: disk.tear()}
        damage.get(kind, lambda disk: disk.restore_backup(5))(machine.disk)
    world.run_ms(1_000)
    for name in victims:
        world.machine(name).start()
    world.run_ms(6_000)
    prober.is_done = True
    world.settle()
    assert is_there(world, prober)
    configuration = world.machine(leader(world)).node.raft.configuration
    assert len(configuration.voters) == nodes
    assert set(marks) <= set(configuration.forgotten)


@pytest.mark.parametrize("victim", ["n1", "n2", "n3"])
def test_d15_a_member_that_lost_its_directory_is_not_taken_for_what_it_was(victim: str) -> None:
    """rabbitmq-server 15725, NATS 2792 and 7545: all stop, one loses its directory and is started as it always was,
    in every order with the others. It founds nothing, its vote does not count, and all is there.
    """
    for order in itertools.permutations(("n1", "n2", "n3")):
        world = quiet(calm(62))
        prober = Prober(world, 40, at_leader=False)
        world.run_ms(2_500)
        for machine in world.machines:
            machine.crash(silent=False, keeps_permille=500)
        world.machine(victim).renew_disk("wiped", is_founding=True)
        for name in order:
            world.machine(name).start()
            world.run_ms(1_500)
        world.run_ms(2_000)
        assert len(prober.took_us) > 30
        prober.is_done = True
        world.settle()
        assert is_there(world, prober)
        configuration = world.machine(leader(world)).node.raft.configuration
        assert [member.mark for member in configuration.voters if member.node_id == victim] == [f"{victim}-2"]


def test_d6_a_thousand_kills_at_random_and_the_queue_is_there() -> None:
    """NATS 6888: a handful of kill -9 made a stream vanish for hours. Here 1,000, of whoever it is, all at once if need
    be; the digests of all tables agree after it and hold every accepted task (Redis-Raft 14, D9).
    """
    world = quiet(calm(63))
    prober = Prober(world, 200, at_leader=False)
    world.run_ms(1_500)
    roll = Random(63)
    kills, leaders = 0, 0
    while kills < 1_000:
        world.run_ms(roll.choice((5, 50, 150, 500)))
        victim = roll.choice(world.machines)
        if victim.is_up:
            kills += 1
            leaders += victim.node_id == world.leader_id()
            victim.crash(silent=roll.random() < 0.3, keeps_permille=roll.choice((0, 500)))
            world.schedule.after(roll.choice((1_000, 50_000, 300_000)), victim.start)
    prober.is_done = True
    assert len(prober.took_us) > 300
    assert leaders > 50
    world.settle()
    assert is_there(world, prober)


class KillsTheLeaderThatGrants:
    """Kills whoever hands out work, between nothing and 2 ms after it did: the order is lost, or arrives, or half of
    several do.
    """

    def __init__(self) -> None:
        self.world: World | None = None
        self.roll = Random(64)
        self.hits = 0

    def started(self, machine: Machine) -> None: ...
    def stopped(self, machine: Machine) -> None: ...
    def handled(self, machine: Machine, event: Event, effects: list[Effect]) -> None: ...
    def replies(self, machine: Machine, reply: Reply) -> None: ...

    def leaves(self, machine: Machine, send: Send) -> None:
        if self.world is None or self.hits >= 60 or send.data[1] != GRANTS or self.roll.random() < 0.5:
            return
        self.hits += 1
        schedule = self.world.schedule
        schedule.after(self.roll.choice((0, 300, 600, 2_000)), self.kill, machine)
        schedule.after(700_000, machine.start)

    @staticmethod
    def kill(machine: Machine) -> None:
        machine.crash(silent=False, keeps_permille=500)


def test_d16_orders_lost_or_doubled_by_a_change_of_leader_are_given_again_and_run_once() -> None:
    """ra's internals: effects may be issued twice or never when the leader changes. Dozens of leaders die as they hand
    out work. Every task is done, and no code starts twice under one token.
    """
    nemesis = KillsTheLeaderThatGrants()
    world = World(calm(64, tasks_max=200, attempt_us=5_000), watchers=(nemesis,))
    nemesis.world = world
    world.run_ms(45_000)
    assert nemesis.hits >= 30
    world.settle()
    assert world.coverage.counts["task completed"] > 50


@pytest.mark.parametrize("keeps_permille", [0, 1_000])
@pytest.mark.parametrize("nodes", [1, 2])
def test_d19_a_mesh_of_one_or_two_dies_at_every_step_of_a_submit(nodes: int, keeps_permille: int) -> None:
    """etcd 14370, 10508, 13766: a lone node answered before its disk had the entry; its table ran ahead of its log.
    Power is cut after each single thing that happens from the submit until its end is on disk: append, sync, apply,
    reply.
    """
    told = set()
    for steps in itertools.count():
        world = quiet(calm(65, nodes=nodes, turn_open_permille=0))
        world.run_ms(1_200)
        prober = Prober(world, 100_000, at_leader=False)
        for _ in range(steps):
            world.schedule.run_until(world.schedule._heap[0][0], world.schedule.fired + 1)
        is_over = [task.state == COMPLETED for task in world.checker.record.model.tasks.values()] == [True]
        index = world.checker.record.model.index
        is_written = all(machine.disk.ledger.applied_index >= index for machine in world.machines)
        told.add((bool(prober.took_us), is_over))
        for machine in world.machines:
            machine.crash(silent=True, keeps_permille=keeps_permille)
        for machine in world.machines:
            machine.start()
        prober.is_done = True
        world.settle()
        assert is_there(world, prober)
        if is_over and is_written:
            break
    assert told == {(False, False), (True, False), (True, True)}
    assert steps >= 12


@pytest.mark.parametrize("seed", range(6))
def test_d12_what_is_refused_for_certain_never_shows_up(seed: int) -> None:
    """Redis-Raft 23: "no leader" was the answer to a write that was committed. Under all kinds of faults every task is
    submitted once: accepted, it is there in the end; refused, whatever the code, it never is; unheard, either may be.
    """
    plan = draw(600 + seed)
    faults = {name: much for name, much in plan.faults.items() if name not in ("duplicate", "replay")}
    world = quiet(
        msgspec.structs.replace(plan, faults={**faults, "crash": 1_500, "partition": 2_000}, safety_ms=15_000)
    )
    prober = Prober(world, 25, at_leader=False)
    world.run_ms(plan.safety_ms // 2)
    prober.is_done = True
    world.settle()
    there = world.checker.record.model.tasks
    assert is_there(world, prober)
    assert [task_id for task_id in prober.refused if task_id in there] == []
    assert set(prober.refused.values()) <= {Code.UNAVAILABLE, Code.BACKPRESSURE}
    assert prober.took_us
    assert prober.refused


def test_d12_a_leader_that_hears_nobody_says_nothing_of_what_is_on_its_way() -> None:
    """What it appends still reaches the others, their answers do not come back: it leaves office, and its successor
    commits what it could not. Ten times. A guess would be wrong in many cases, either way.
    """
    world = quiet(calm(69))
    prober = Prober(world, 30, at_leader=True)
    world.run_ms(2_000)
    unheard = 0
    for _ in range(10):
        old, first = leader(world), len(prober.asked_us)
        others = [name for name in world.plan.node_ids if name != old]
        for other in others:
            world.network.cut(other, old)
        world.run_ms(1_500)
        for other in others:
            world.network.mend(other, old)
        world.run_ms(1_000)
        asked = list(prober.asked_us)[first:]
        there = world.checker.record.model.tasks
        unheard += sum(task_id in there and task_id not in prober.took_us for task_id in asked)
    prober.is_done = True
    world.settle()
    assert [task_id for task_id in prober.refused if task_id in world.checker.record.model.tasks] == []
    assert is_there(world, prober)
    assert unheard > 10


def _read_now_answer_later(machine: Machine, make: Callable[[], Event | None]) -> None:
    """As a reading thread that has its rows and waits for the processor: what is written meanwhile is not in them."""
    event = make()
    if event is not None:
        machine._schedule.after(machine._dice.randint(200, 30_000), machine._hear_from(machine.incarnation), event)


@pytest.mark.parametrize("seed", range(2))
def test_d21_every_subscriber_hears_every_event_once_and_in_order(seed: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """etcd 15271, 17247, 17529: watches went back in time, lost events, repeated them. Three subscribers move from node
    to node, ask for what is certain or for what is at hand, and go on where they were, while leaders die and the stores
    are read slowly.
    """
    monkeypatch.setattr(Machine, "_answer_later", _read_now_answer_later)
    world = World(calm(66 + seed, clients=1, tasks_max=150))
    subscribers = [Subscriber(world, number) for number in range(3)]
    world.run_ms(2_000)
    first = terms(world)
    for _ in range(6):
        victim = world.machine(leader(world))
        victim.crash(silent=False, keeps_permille=500)
        world.run_ms(1_500)
        victim.start()
        world.run_ms(1_500)
    assert terms(world) - first >= 6
    world.settle()
    latecomer = Subscriber(world, 9)
    world.run_ms(15_000)
    whole = latecomer.heard
    assert len(whole) > 300
    assert [index for index, _ in whole] == sorted(index for index, _ in whole)
    for subscriber in subscribers:
        assert subscriber.heard == whole
        assert len(subscriber.nodes) == 3
