"""Small random storms over small meshes: loss, doubling, reordering, cuts, crashes that lose what was not synced, slow
disks, compaction, snapshots, transfers, links that break. The cast checks every step; then, in calm, all must agree.

The simulator does this with the whole node and far more of it. This is the quick look at the log alone.
"""

from random import Random

import pytest

from mesh.ids import LogIndex, NodeId
from tests.raft.cast import ANA, BEN, EVA, KAI, LEO, Cast, founding

STEPS = 1_000
SEEDS = 60


class Storm:
    """One seed: a mesh of one to five, and what befalls it."""

    def __init__(self, seed: int) -> None:
        self.dice = Random(seed)
        self.names = [ANA, BEN, EVA, KAI, LEO][: self.dice.choice([1, 2, 3, 3, 3, 5])]
        self.cast = Cast(founding(*self.names), seed=seed)
        self.cast.lazy_disks = [name for name in self.names if self.dice.random() < 0.6]
        self.proposed = 0

    def step(self) -> None:
        cast, dice = self.cast, self.dice
        name = dice.choice(self.names)
        roll = dice.random()
        if roll < 0.5:
            for _ in range(dice.randint(1, 6)):
                self.pass_on()
        elif roll < 0.65:
            cast.now_ms += dice.randint(1, 60)
            for other in list(cast.replicas):
                cast.tick(other)
        elif name not in cast.replicas:
            if roll > 0.85:
                cast.start(name)
        elif roll < 0.75:
            for slow in list(cast.replicas):
                if cast.disks[slow].unsynced and dice.random() < 0.7:
                    cast.sync(slow)
        elif roll < 0.85:
            leader = cast.leader()
            self.ask(leader.leader_id if leader and leader.leader_id and dice.random() < 0.7 else name)
        else:
            self.befall(name, roll)
        del cast.wire[400:]

    def pass_on(self) -> None:
        cast, dice = self.cast, self.dice
        if not cast.wire:
            return
        position = 0 if dice.random() < 0.8 else dice.randrange(len(cast.wire))
        roll = dice.random()
        if roll < 0.05:
            cast.wire.append(cast.wire[position])
        if 0.05 <= roll < 0.1:
            cast.wire.pop(position)
        else:
            cast.deliver_one(position)

    def ask(self, name: NodeId) -> None:
        self.proposed += 1
        self.cast.propose(name, b"%d" % self.proposed)
        if self.dice.random() < 0.3:
            self.cast.read(name, self.proposed)
        self.cast.turn(name)

    def befall(self, name: NodeId, roll: float) -> None:
        cast, dice = self.cast, self.dice
        other = dice.choice(self.names)
        if roll < 0.86:
            cast.crash(name)
        elif roll < 0.877:
            self.cut(name)
        elif roll < 0.89:
            cast.heal()
        elif roll < 0.907:
            cast.replicas[name].transfer(other, cast.now_ms)
        elif roll < 0.95:
            cast.replicas[name].link_down(other, cast.now_ms)
            cast.replicas[name].link_up(other, cast.now_ms)
        elif roll < 0.98:
            applied = len(cast.committed[name])
            if applied > 1:
                cast.compact(name, dice.randint(1, applied))
        else:
            self.send_snapshots(name)
        if name in cast.replicas:
            cast.turn(name)

    def cut(self, name: NodeId) -> None:
        """Some links of a node, or all links of a leader that goes on writing."""
        leader = self.cast.leader()
        if leader is None or leader.leader_id is None or self.dice.random() < 0.5:
            self.cast.cut(name, *(peer for peer in self.names if self.dice.random() < 0.5))
            return
        self.cast.cut(leader.leader_id)
        for _ in range(3):
            self.ask(leader.leader_id)

    def send_snapshots(self, name: NodeId) -> None:
        cast = self.cast
        needed, cast.snapshots_needed[name] = cast.snapshots_needed[name], []
        for peer in needed:
            ledger = cast.disks[name].ledger
            if ledger is None or peer not in cast.replicas:
                cast.replicas[name].snapshot_failed(peer)
                continue
            is_told_first = self.dice.random() < 0.5
            if is_told_first:
                cast.replicas[name].snapshot_sent(peer, ledger.applied_index)
            cast.install(name, peer)
            if not is_told_first:
                cast.replicas[name].snapshot_sent(peer, ledger.applied_index)

    def calm(self) -> NodeId:
        """Everything heals and everyone lives. Who leads then."""
        cast = self.cast
        cast.heal()
        cast.lazy_disks = []
        for name in self.names:
            if name not in cast.replicas:
                cast.start(name)
            elif cast.disks[name].unsynced:
                cast.sync(name)
        for _ in range(10):
            cast.advance(500)
            for name in self.names:
                self.send_snapshots(name)
        leader = cast.leader()
        assert leader is not None and leader.serving and leader.leader_id is not None, "someone leads in calm"
        return leader.leader_id


@pytest.mark.parametrize("seed", range(SEEDS))
def test_a_storm_leaves_one_history(seed: int) -> None:
    storm = Storm(seed)
    for _ in range(STEPS):
        storm.step()
        for replica in storm.cast.replicas.values():
            for progress in replica._s.peers.values():
                assert progress.match < progress.next
                assert progress.next >= replica.first_index
    leader = storm.calm()
    cast = storm.cast
    before = cast.data(leader)
    index = cast.propose(leader, b"after the storm")
    assert index is not None
    cast.advance(100)
    for name in storm.names:
        assert cast.data(name) == [*before, b"after the storm"]
        assert cast.replicas[name].commit_index == LogIndex(index)


def test_the_storms_are_not_vacuous() -> None:
    """Over the seeds above: many terms, cut tails, snapshots and confirmed reads did occur."""
    terms, truncations, snapshots, reads = 0, 0, 0, 0
    for seed in range(SEEDS):
        storm = Storm(seed)
        for _ in range(STEPS):
            storm.step()
        cast = storm.cast
        terms = max(terms, max(cast.leaders, default=0))
        truncations += cast.truncations
        snapshots += cast.installs
        reads += sum(len(confirmed) for confirmed in cast.reads.values())
    assert terms > 8
    assert truncations > 10
    assert snapshots > 2
    assert reads > 50
