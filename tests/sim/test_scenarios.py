"""Stories that random seeds seldom tell, because their windows are narrow or their order is peculiar.

Each is played on the whole simulated mesh with real work going on, while every invariant is checked after every event,
and each ends with healing: every accepted task done, all tables equal.
"""

import itertools

import pytest

from mesh.config import DispatchConfig
from mesh.effects import Effect, InstallSnapshot, Persist, Reply, Send
from mesh.events import Event
from mesh.raft.replica import Role
from mesh.sim.machine import Machine
from mesh.sim.plan import calm
from mesh.sim.world import World


def _cut(world: World, few: list[str], many: list[str]) -> None:
    for one, other in itertools.product(few, many):
        world.network.cut(one, other)
        world.network.cut(other, one)


def _mend(world: World, few: list[str], many: list[str]) -> None:
    for one, other in itertools.product(few, many):
        world.network.mend(one, other)
        world.network.mend(other, one)


def _leader(world: World) -> str:
    leader = world.leader_id()
    assert leader is not None
    return leader


def _acked(world: World) -> int:
    return len(world.checker.acked_ids())


class CrashInTheVoteWindow:
    """Kills a node the moment it writes a vote, so that the vote is in memory and not on disk; starts it at once."""

    def __init__(self) -> None:
        self.world: World | None = None
        self.hits = 0

    def started(self, machine: Machine) -> None: ...
    def stopped(self, machine: Machine) -> None: ...
    def leaves(self, machine: Machine, send: Send) -> None: ...
    def replies(self, machine: Machine, reply: Reply) -> None: ...

    def handled(self, machine: Machine, event: Event, effects: list[Effect]) -> None:
        votes = [effect.hard_state for effect in effects if isinstance(effect, Persist) and effect.hard_state]
        if self.world is None or self.hits >= 40 or not any(state.voted_for is not None for state in votes):
            return
        self.hits += 1
        schedule = self.world.schedule
        schedule.after(1, lambda: machine.crash(silent=False, keeps_permille=0))
        schedule.after(2_000, machine.start)


class CrashWhileInstalling(CrashInTheVoteWindow):
    """Kills a node while its table is being replaced: before, after, or between table and log."""

    def handled(self, machine: Machine, event: Event, effects: list[Effect]) -> None:
        if self.world is None or self.hits >= 12 or not any(isinstance(effect, InstallSnapshot) for effect in effects):
            return
        self.hits += 1
        self.world.schedule.after(1, lambda: machine.crash(silent=False, keeps_permille=950))
        self.world.schedule.after(2_000, machine.start)


@pytest.mark.parametrize("seed", range(4))
def test_a_vote_that_was_not_synced_is_forgotten_and_never_given_twice(seed: int) -> None:
    """Every voter dies between deciding its vote and syncing it, 40 times over, then elections go through."""
    nemesis = CrashInTheVoteWindow()
    world = World(calm(seed, tasks_max=40, sync_us=5_000), watchers=(nemesis,))
    nemesis.world = world
    world.run_ms(10_000)
    assert nemesis.hits == 40
    world.settle()


@pytest.mark.parametrize("victim", ["n1", "n2", "n3", "n4", "n5"])
def test_pause_kill(victim: str) -> None:
    """Two nodes sleep while the others accept work; one of the others dies with un-synced writes lost; then it and the
    two sleepers are the new majority. Nothing accepted is missing.
    """
    world = World(calm(11, nodes=5))
    world.run_ms(2_000)
    others = [name for name in world.plan.node_ids if name not in (victim, _leader(world))]
    sleepers, awake = others[:2], [name for name in world.plan.node_ids if name not in (victim, *others[:2])]
    for name in sleepers:
        world.machine(name).pause()
    world.run_ms(3_000)
    acked_in_the_majority = _acked(world)
    world.machine(victim).crash(silent=True, keeps_permille=0)
    for name in awake:
        world.machine(name).pause()
    for name in sleepers:
        world.machine(name).resume()
    world.machine(victim).start()
    world.run_ms(3_000)
    assert acked_in_the_majority > 50
    assert _leader(world) in (victim, *sleepers)
    world.settle()


@pytest.mark.parametrize("nodes", [3, 5])
def test_partition_kill(nodes: int) -> None:
    """A minority is cut off while work is accepted; one of the majority dies with un-synced writes lost; then the cut
    moves, so that just that node and the former minority are the new majority.
    """
    world = World(calm(12, nodes=nodes))
    world.run_ms(2_000)
    names = list(world.plan.node_ids)
    minority = [name for name in names if name != _leader(world)][: nodes // 2]
    majority = [name for name in names if name not in minority]
    _cut(world, minority, majority)
    world.run_ms(3_000)
    before = _acked(world)
    victim = majority[0]
    world.machine(victim).crash(silent=False, keeps_permille=0)
    _mend(world, minority, [victim])
    _cut(world, majority[1:], [victim])
    world.machine(victim).start()
    world.run_ms(3_000)
    assert before > 50
    assert _acked(world) > before
    world.settle()


@pytest.mark.parametrize("nodes", [1, 2, 3, 5])
def test_all_nodes_die_at_once_and_lose_what_was_not_synced(nodes: int) -> None:
    """Power is cut in the middle of work, ten times. What was accepted is there every time."""
    world = World(calm(13, nodes=nodes, sync_us=8_000))
    for _ in range(10):
        world.run_ms(1_500)
        for machine in world.machines:
            machine.crash(silent=True, keeps_permille=0)
        for machine in world.machines:
            machine.start()
    assert world.coverage.counts["crash that lost un-synced writes"] >= 8
    assert _acked(world) > 50
    world.settle()


@pytest.mark.parametrize("order", list(itertools.permutations(["n1", "n2", "n3"])))
def test_a_cold_start_in_every_order(order: tuple[str, ...]) -> None:
    """All are stopped and started one by one, a second apart."""
    world = World(calm(14))
    world.run_ms(3_000)
    for machine in world.machines:
        machine.crash(silent=False, keeps_permille=500)
    for name in order:
        world.run_ms(1_000)
        world.machine(name).start()
    world.run_ms(2_000)
    assert world.leader_id() is not None
    world.settle()


def test_a_leader_cut_off_alone_accepts_nothing_and_leaves_office() -> None:
    """It goes on in its belief for an election timeout at most; the others have a leader soon."""
    world = World(calm(15, nodes=5))
    world.run_ms(2_000)
    old = _leader(world)
    rest = [name for name in world.plan.node_ids if name != old]
    _cut(world, [old], rest)
    world.run_ms(700)
    assert world.machine(old).node.raft.role is not Role.LEADER
    world.run_ms(1_000)
    assert _leader(world) in rest
    world.settle()


def test_a_leader_whose_disk_hangs_makes_room_and_its_leases_go_on() -> None:
    """The disk of the leader hangs for a minute: another leads within seconds, and work goes on."""
    world = World(calm(16, attempt_us=300_000))
    world.run_ms(3_000)
    old = _leader(world)
    failed_before = world.coverage.counts.get("node failed", 0)
    world.machine(old).storage.stalled_until_us = world.schedule.now_us + 60_000_000
    world.run_ms(6_000)
    before = _acked(world)
    world.run_ms(3_000)
    assert _leader(world) != old
    assert _acked(world) > before
    assert world.coverage.counts.get("node failed", 0) == failed_before
    world.settle()


def test_a_node_that_was_away_too_long_is_given_the_table_while_work_goes_on() -> None:
    """It was down for 20 s, and the log it needs is gone. It catches up though the log goes on being trimmed."""
    plan = calm(17, chunk_rows=3)
    world = World(plan)
    world.run_ms(2_000)
    away = next(machine for machine in world.machines if machine.node_id != _leader(world))
    away.crash(silent=False, keeps_permille=500)
    world.run_ms(20_000)
    away.start()
    world.run_ms(10_000)
    assert world.coverage.counts["snapshot installed"] >= 1
    ledgers = [machine.node.ledger for machine in world.machines]
    assert max(ledger.applied_index for ledger in ledgers) - away.node.ledger.applied_index < 50
    world.settle()


def test_a_crash_between_the_new_table_and_the_new_log() -> None:
    """A node far behind is killed again and again at the moment it installs a table. At each start it finds the old one
    or the new one, with a log that joins it.
    """
    nemesis = CrashWhileInstalling()
    dispatch = DispatchConfig(ledger_flush_ms=50, log_tail_entries_max=1)
    world = World(calm(18, dispatch=dispatch), watchers=(nemesis,))
    nemesis.world = world
    world.run_ms(2_000)
    away = next(machine for machine in world.machines if machine.node_id != _leader(world))
    for _ in range(12):
        away.crash(silent=False, keeps_permille=500)
        world.run_ms(1_000)
        away.start()
        world.run_ms(1_500)
    assert nemesis.hits >= 5
    assert world.coverage.counts["crash between table and log"] >= 1
    world.settle()


@pytest.mark.parametrize("seed", range(3))
def test_a_bridge_for_ten_seconds_does_not_elect_for_ever(seed: int) -> None:
    """One node sees both sides, which do not see each other. There is a leader, and few elections."""
    world = World(calm(20 + seed, nodes=5))
    world.run_ms(2_000)
    term = world.machine(_leader(world)).node.raft.term
    _cut(world, ["n2", "n3"], ["n4", "n5"])
    world.run_ms(10_000)
    assert world.leader_id() is not None
    assert max(machine.node.raft.term for machine in world.machines) - term <= 10
    world.settle()
