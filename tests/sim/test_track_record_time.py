"""What took too long elsewhere: hung disks, flapping leaders, cold starts, half-cut networks (TRACK_RECORD.md).

All times are virtual, so a minute costs less than a second. Every invariant is checked after every event all the same.
"""

import itertools
from random import Random

import pytest

from mesh.config import GossipConfig, RaftConfig
from mesh.raft.replica import Role
from mesh.sim.machine import Machine
from mesh.sim.plan import calm
from mesh.sim.world import World
from tests.sim.probes import Prober, cut, leader, mend, quiet, terms

MINUTE_MS = 60_000


def counted(world: World, what: str) -> int:
    return world.coverage.counts.get(what, 0)


def serves_within(world: World, limit_ms: int) -> bool:
    """Let time pass until some leader serves."""
    for _ in range(limit_ms // 50):
        found = world.leader_id()
        if found is not None and world.machine(found).node.raft.serving:
            return True
        world.run_ms(50)
    return False


@pytest.mark.parametrize("seed", range(2))
def test_d20_a_disk_that_hangs_for_a_minute_at_the_leader_costs_office_and_no_lease(seed: int) -> None:
    """etcd 15247: the leader hung in a sync, stayed in office, and all leases expired at once. Here another leads soon,
    work goes on all that minute, no node is given up, no lease is taken from anybody, the old leader's own included.
    """
    world = World(calm(40 + seed, attempt_us=2_000_000, failing_permille=0, clients=1, submit_pause_ms=700))
    world.run_ms(5_000)
    old = leader(world)
    names = ("node failed", "task reassigned", "lease released", "node restarted")
    before = [counted(world, name) for name in names]
    held = dict(world.machine(old).agents.running)
    world.machine(old).storage.stalled_until_us = world.schedule.now_us + MINUTE_MS * 1_000
    world.run_ms(4_000)
    assert leader(world) != old
    for _ in range(5):
        acked = len(world.checker.acked_ids())
        world.run_ms(10_000)
        assert len(world.checker.acked_ids()) > acked
    assert [counted(world, name) for name in names] == before
    assert held, "the old leader held leases of its own"
    world.run_ms(10_000)
    caught_up = [machine.node.ledger.applied_index for machine in world.machines]
    assert max(caught_up) - min(caught_up) < 30
    world.settle()


def test_d24_one_dead_and_one_slow_of_five_cost_no_time() -> None:
    """TigerBeetle's Jepsen report: one dead replica made the whole cluster slow. Of five, one is dead, and another's
    disk and wires are hundreds of times slower; the 99th percentile of a submit stays where it was.
    """
    world = quiet(calm(41, nodes=5))
    prober = Prober(world, 40, at_leader=True)
    world.run_ms(10_000)
    well_ms = prober.p99_ms(since=50)
    followers = [machine for machine in world.machines if machine.node_id != leader(world)]
    dead, slow = followers[:2]
    dead.crash(silent=True, keeps_permille=0)
    world.network.slow_us[slow.node_id] = 150_000
    for after_ms in range(0, 10_000, 250):
        world.schedule.after(after_ms * 1_000, stall, slow, 240)
    first = len(prober.asked_us)
    world.run_ms(10_000)
    prober.is_done = True
    world.run_ms(1_000)
    assert len(prober.asked_us) - first > 200
    assert prober.p99_ms(since=first) < 2 * well_ms
    dead.start()
    world.settle()


def stall(machine: Machine, for_ms: int) -> None:
    if machine.is_up:
        machine.storage.stalled_until_us = machine.schedule_now_us + for_ms * 1_000


def test_d25_a_follower_whose_disk_hung_is_replicated_to_again() -> None:
    """hashicorp 612: after a stall of its disk the pipeline to a follower stayed wedged for good."""
    world = quiet(calm(42))
    prober = Prober(world, 50, at_leader=True)
    world.run_ms(3_000)
    first, last = leader(world), terms(world)
    slow = next(machine for machine in world.machines if machine.node_id != first)
    stall(slow, 30_000)
    world.run_ms(31_000)
    assert (leader(world), terms(world)) == (first, last)
    world.run_ms(1_000)
    behind = world.machine(first).node.ledger.applied_index - slow.node.ledger.applied_index
    assert behind <= 4
    prober.is_done = True
    world.settle()


@pytest.mark.parametrize("seed", range(2))
def test_d26_storms_on_every_disk_elect_nobody(seed: int) -> None:
    """consul 3552, etcd 7312: leadership flapped whenever disks were slow. Every disk hangs every second or so, for up
    to three election timeouts and all at their own times. In a minute nobody loses office, and submits get through.
    """
    world = quiet(calm(43 + seed))
    prober = Prober(world, 100, at_leader=True)
    world.run_ms(3_000)
    roll = Random(seed)
    for machine in world.machines:
        at_ms = 0
        while at_ms < MINUTE_MS:
            at_ms += roll.randint(500, 1_500)
            world.schedule.after(at_ms * 1_000, stall, machine, roll.randint(50, 900))
    before, first = terms(world), len(prober.asked_us)
    world.run_ms(MINUTE_MS)
    assert terms(world) == before
    prober.is_done = True
    world.run_ms(3_000)
    assert prober.p99_ms(since=first) < 3_000
    world.settle()


@pytest.mark.parametrize("delay_ms", [20, 60, 120])
def test_d26_elections_are_few_when_messages_take_long_and_vary(delay_ms: int) -> None:
    """Delays are drawn anew for each message, with that mean: ten times as much now and then. Timeouts are 300 to 600
    ms. At most so many elections in a minute, and a leader nearly always.
    """
    world = quiet(calm(46, delay_us=delay_ms * 1_000))
    world.run_ms(5_000)
    before = terms(world)
    led = 0
    for _ in range(600):
        world.run_ms(100)
        led += world.leader_id() is not None
    assert terms(world) - before <= {20: 0, 60: 2, 120: 30}[delay_ms]
    assert led > {20: 599, 60: 590, 120: 400}[delay_ms]
    world.network.delay_us = 500
    world.settle()


def test_d27_a_thousand_cold_starts_in_every_order() -> None:
    """PySyncObj 201: some five in a hundred full restarts ended without a leader. All nodes stop, some in the middle of
    a write, and start in each of the six orders with pauses of nothing to a second. Someone serves within 3 s.
    """
    world = quiet(calm(47))
    prober = Prober(world, 1_000, at_leader=False)
    world.run_ms(2_000)
    roll = Random(47)
    orders = list(itertools.permutations(world.machines))
    for number in range(1_000):
        for machine in world.machines:
            machine.crash(silent=roll.random() < 0.5, keeps_permille=roll.choice((0, 500, 1_000)))
        pause_ms = roll.choice((0, 0, 10, 100, 300, 1_000))
        for machine in orders[number % len(orders)]:
            world.run_ms(pause_ms)
            machine.start()
        assert serves_within(world, 3_000), f"restart {number}, {pause_ms} ms apart"
    prober.is_done = True
    assert len(prober.took_us) > 50
    world.settle()


SLOW = RaftConfig(heartbeat_ms=200, election_timeout_ms=800)
"""Ten minutes of five nodes are many messages; fewer of them tell the same story."""

SHAPES: dict[str, tuple[int, int, list[tuple[str, str]]]] = {
    "a bridge of three": (3, 1, [("n1", "n3"), ("n3", "n1")]),
    "a bridge of five": (5, 2, [(a, b) for a, b in itertools.product(("n2", "n3"), ("n4", "n5"))]),
    "one way": (3, 1, [("n1", "n2")]),
    "one deaf": (3, 1, [("n2", "n1"), ("n3", "n1")]),
    "one mute": (3, 1, [("n1", "n2"), ("n1", "n3")]),
    "a ring of one-way wires": (3, 1, [("n1", "n3"), ("n2", "n1"), ("n3", "n2")]),
    "only one hears all": (5, 2, [(a, b) for a, b in itertools.permutations(("n2", "n3", "n4", "n5"), 2)]),
}
"""How many nodes, which of them leads when the wires are cut, and what passes no more."""

SHAPES["a bridge of five"][2].extend([(b, a) for a, b in SHAPES["a bridge of five"][2]])
HAVE_NO_LEADER = ("a ring of one-way wires",)
"""Nobody has a majority that he hears and that hears him."""


@pytest.mark.parametrize("shape", SHAPES)
def test_d28_ten_minutes_of_half_a_partition_do_not_elect_for_ever(shape: str) -> None:
    """The liveness bugs of partial partitions (Cloudflare 2020; Omni-Paxos): leaders that unseat each other for ever.
    Work is accepted from the 5th second on wherever somebody has a majority; terms hardly grow; then all comes right.
    """
    size, place, wires = SHAPES[shape]
    world = quiet(calm(48, nodes=size, raft=SLOW, gossip=GossipConfig()))
    world.run_ms(5_000)
    before = terms(world)
    names = [name for name in world.plan.node_ids if name != leader(world)]
    names.insert(place - 1, leader(world))
    cast = dict(zip(world.plan.node_ids, names, strict=True))
    cuts = [(cast[here], cast[there]) for here, there in wires]
    for here, there in cuts:
        world.network.cut(here, there)
    world.run_ms(5_000)
    prober = Prober(world, 1_000, at_leader=False)
    for _ in range(20):
        accepted = len(prober.took_us)
        world.run_ms(30_000)
        assert (len(prober.took_us) > accepted + 3) is (shape not in HAVE_NO_LEADER)
    assert terms(world) - before <= 6
    for here, there in cuts:
        world.network.mend(here, there)
    assert serves_within(world, 3_000)
    prober.is_done = True
    world.settle()


def test_d28_where_the_only_bridge_lags_nobody_leads_and_nobody_is_to_blame() -> None:
    """Raft's own limit (Omni-Paxos, constrained election): n1 alone reaches a majority and lacks a committed entry, so
    nobody can be elected. Terms stand still, nothing is lost, and the first wire that is mended brings a leader.
    """
    world = quiet(calm(49, nodes=5))
    world.run_ms(3_000)
    rest = ["n2", "n3", "n4", "n5"]
    if leader(world) == "n1":
        world.machine("n1").crash(silent=False, keeps_permille=1_000)
        world.run_ms(2_000)
        world.machine("n1").start()
        world.run_ms(1_000)
    old = leader(world)
    cut(world, ["n1"], rest)
    prober = Prober(world, 50, at_leader=True)
    world.run_ms(1_000)
    prober.is_done = True
    assert len(prober.took_us) > 10
    before = terms(world)
    for one, other in itertools.combinations(rest, 2):
        cut(world, [one], [other])
    others = [name for name in rest if name != old]
    mend(world, ["n1"], others)
    world.run_ms(MINUTE_MS)
    assert [m.node_id for m in world.machines if m.node.raft.role is Role.LEADER] == []
    assert terms(world) - before <= 1
    mend(world, [others[0]], [others[1]])
    assert serves_within(world, 5_000)
    world.settle()
