"""What went wrong with the logs of others, as stories about a few replicas (TRACK_RECORD.md says what, and where)."""

from collections.abc import Callable
from itertools import combinations
from random import Random

import pytest

from mesh.durable import Configuration
from mesh.ids import LogIndex, NodeId, Term
from mesh.messages import Append, AppendReply, PreVote
from mesh.raft.configuration import is_single_change, with_voter, without, without_vote
from mesh.raft.replica import NEVER_MS, NO_OUTPUT, Role
from tests.raft.cast import (
    ANA,
    BEN,
    CONFIGURATION,
    EVA,
    KAI,
    LEO,
    Cast,
    encoded,
    entry,
    follower,
    founding,
    founding_entry,
    mark,
    recovered,
    replica,
    role,
)

TRIO = founding(ANA, BEN, EVA)
FIVE = founding(ANA, BEN, EVA, KAI, LEO)
STEPS_MAX = 60

Change = Callable[[Configuration], Configuration]


# --- D5, D11: a change of the configuration, broken off at every step -------------------------------------------------

CHANGES: dict[str, tuple[Configuration, Change]] = {
    "a voter is removed": (FIVE, lambda now: without(now, LEO)),
    "a voter loses its vote": (FIVE, lambda now: without_vote(now, LEO, held_back=True)),
    "a learner is given a vote": (founding(ANA, BEN, EVA, KAI, learners=(LEO,)), lambda now: with_voter(now, LEO)),
    "the leader removes itself": (FIVE, lambda now: without(now, ANA)),
}
MINORITIES = [
    (what, minority)
    for what in CHANGES
    for minority in ((ANA,), (ANA, LEO), (ANA, BEN) if what == "the leader removes itself" else (BEN, LEO))
]
"""The others are a majority by the configuration before the change and by the one after it."""


def changing(configuration: Configuration, change: Change, steps: int) -> Cast | None:
    """ana leads, one entry is acknowledged, and the change has gone `steps` messages far. None if it ends before."""
    cast = Cast(configuration)
    cast.elect(ANA)
    assert cast.propose(ANA, b"acknowledged") is not None
    cast.deliver()
    assert cast.propose(ANA, encoded(change(configuration)), CONFIGURATION) is not None
    cast.turn(ANA)
    for _ in range(steps):
        if not cast.wire:
            return None
        cast.deliver_one()
    return cast


@pytest.mark.parametrize(
    ("what", "minority"), MINORITIES, ids=[f"{what}, without {'+'.join(m)}" for what, m in MINORITIES]
)
def test_d5_a_change_cut_in_two_at_any_step_is_decided_by_the_majority_alone(
    what: str, minority: tuple[NodeId, ...]
) -> None:
    """NATS 7545, 7561, Redis-Raft 17 and 44: after each single message of the change the mesh falls apart, and a node
    of the majority loses power. Nothing the minority proposes is committed; in the end all have one log, with all that
    was acknowledged.
    """
    configuration, change = CHANGES[what]
    for steps in range(STEPS_MAX):
        cast = changing(configuration, change, steps)
        if cast is None:
            break
        majority = [name for name in cast.replicas if name not in minority]
        for name in minority:
            cast.cut(name, *majority)
        last = max(cast.replicas[name].last_index for name in minority)
        cast.crash(majority[0])
        cast.start(majority[0])
        for name in minority:
            cast.propose(name, b"of the minority")
            cast.propose(name, encoded(without(cast.replicas[name].configuration, majority[1])), CONFIGURATION)
            cast.turn(name)
        cast.advance(3_000)
        assert max(cast.replicas[name].commit_index for name in minority) <= last
        leader = cast.leader()
        assert leader is not None and leader.leader_id in majority and leader.serving
        assert cast.propose(leader.leader_id, b"of the majority") is not None
        cast.deliver()
        cast.heal()
        cast.advance(3_000)
        all_agree(cast, b"acknowledged", b"of the majority")
    assert 5 < steps < STEPS_MAX - 1


def all_agree(cast: Cast, *acknowledged: bytes) -> None:
    """Every member by the committed configuration has it, and everything that was acknowledged."""
    leader = cast.leader()
    assert leader is not None and leader.leader_id is not None
    assert leader.configuration_index <= leader.commit_index
    for member in leader.configuration.members:
        assert cast.replicas[member.node_id].configuration == leader.configuration
        data = cast.data(member.node_id)
        assert data == cast.data(leader.leader_id)
        assert [one for one in data if one in acknowledged] == list(acknowledged)


def test_d5_a_minority_can_change_nothing_whatever_it_tries() -> None:
    """NATS 7561: ana and ben of five are alone. No order of removals makes a majority of the two."""
    cast = Cast(FIVE)
    cast.elect(ANA)
    for name in (ANA, BEN):
        cast.cut(name, EVA, KAI, LEO)
    before = cast.replicas[ANA].configuration
    for victim in (LEO, KAI, EVA):
        cast.propose(ANA, encoded(without(cast.replicas[ANA].configuration, victim)), CONFIGURATION)
        cast.turn(ANA)
        cast.deliver()
    cast.advance(2_000)
    assert role(cast.replicas[ANA]) is not Role.LEADER
    for name in (ANA, BEN):
        one = cast.replicas[name]
        assert one.configuration_at(one.commit_index) == before


# --- D7: members, quorums and catch-up --------------------------------------------------------------------------------


def test_d7_a_leader_that_restarts_does_not_bring_back_whom_it_removed() -> None:
    """NATS 7602: eva was removed; the leader restarted, and counted her again. Here from the log and from the table."""
    cast = Cast(TRIO)
    cast.elect(ANA)
    duo = without(TRIO, EVA)
    index = cast.propose(ANA, encoded(duo), CONFIGURATION)
    cast.deliver()
    cast.crash(ANA)
    assert cast.start(ANA).configuration == duo
    assert index is not None
    from_table = replica(ANA, TRIO, recovered((2, ANA), [], mark(index, 2, duo)))
    assert from_table.configuration == duo
    stale = recovered((2, ANA), [founding_entry(TRIO), entry(2, 2)], mark(2, 2, duo))
    assert replica(ANA, TRIO, stale).configuration == duo


def test_d7_majorities_of_neighbouring_configurations_always_share_a_voter() -> None:
    """NATS 7632: newly added peers counted at once and made a disjoint majority. Every pair of up to six voters."""
    names = [NodeId(f"n{number}") for number in range(6)]
    sets = [founding(*chosen) for size in range(1, 7) for chosen in combinations(names, size)]
    tried = 0
    for old in sets:
        for new in sets:
            if is_single_change(old, new):
                tried += 1
                for ours in combinations(old.voter_ids, len(old.voters) // 2 + 1):
                    for theirs in combinations(new.voter_ids, len(new.voters) // 2 + 1):
                        assert set(ours) & set(theirs), f"{ours} of {old.voter_ids}, {theirs} of {new.voter_ids}"
    assert tried == 63 + 63 * 6 - 6, "each with itself, and with each of its neighbours that has a voter"


def test_d7_two_nodes_are_not_given_votes_at_once() -> None:
    """NATS 7632: the second has to wait until the first change is committed; and a vote counts from the change on."""
    cast = Cast(founding(ANA, BEN, EVA, learners=(KAI, LEO)))
    ana = cast.elect(ANA)
    four = with_voter(ana.configuration, KAI)
    cast.cut(ANA, BEN, EVA)
    assert cast.propose(ANA, encoded(four), CONFIGURATION) is not None
    assert cast.propose(ANA, encoded(with_voter(four, LEO)), CONFIGURATION) is None
    before = ana.commit_index
    cast.turn(ANA)
    cast.deliver()
    assert ana.commit_index == before, "ana and kai are two of four"


@pytest.mark.parametrize("seed", range(40))
def test_d7_two_catch_ups_at_once_cut_nothing_that_is_committed(seed: int) -> None:
    """NATS 7424: two streams of the same entries ran into each other at a follower. Here eva's link is made anew in the
    middle of one, so that a second begins, and all messages of both arrive in any order, some of them twice.
    """
    dice = Random(seed)
    cast = Cast(TRIO)
    ana = cast.elect(ANA)
    cast.cut(EVA, ANA, BEN)
    for number in range(12):
        cast.propose(ANA, b"%d" % number)
        cast.deliver()
    cast.heal()
    for _ in range(6):
        ana.link_up(EVA, cast.now_ms)
        cast.turn(ANA)
        for _ in range(dice.randint(0, 3)):
            if cast.wire:
                cast.deliver_one(dice.randrange(len(cast.wire)))
    appends = [one for one in cast.wire if isinstance(one[2], Append)]
    cast.wire += dice.sample(appends, len(appends) // 2)
    while cast.wire:
        cast.deliver_one(dice.randrange(len(cast.wire)))
    cast.advance(200)
    assert cast.data(EVA) == [b"%d" % number for number in range(12)]
    assert cast.truncations == 0


# --- elections --------------------------------------------------------------------------------------------------------


def test_a1_nobody_campaigns_while_a_table_is_being_installed() -> None:
    """NATS 8332, etcd: his log is about to be replaced, so he cannot say how long it is."""
    ben = follower(TRIO, 1)
    assert ben.begin_install(mark(9, 3, TRIO))
    ben.tick(ben.next_deadline_ms())
    assert ben.take().outgoing == []
    assert role(ben) is Role.FOLLOWER


def test_a1_a_voter_whose_removal_is_on_its_way_disturbs_nobody() -> None:
    """NATS 8290: leo has the entry that removes him. He does not know whether it is committed; the others do.

    He may be the only one who has it, so he asks whether he is needed (thesis 4.2.2), and is told that he is not.
    """
    cast = Cast(FIVE)
    cast.elect(ANA)
    cast.propose(ANA, encoded(without(FIVE, LEO)), CONFIGURATION)
    cast.turn(ANA)
    leo = cast.replicas[LEO]
    leo.receive(
        ANA,
        Append(
            Term(2), LogIndex(2), Term(2), LogIndex(2), 9, (entry(3, 2, encoded(without(FIVE, LEO)), CONFIGURATION),)
        ),
        cast.now_ms,
    )
    cast.turn(LEO)
    cast.advance(5_000)
    assert len(cast.said(LEO, PreVote)) > 5
    assert (leo.term, leo.commit_index, cast.leaders) == (2, 2, {2: ANA})
    cast.crash(ANA)
    cast.advance(5_000)
    leader = cast.leader()
    assert leader is not None and leader.leader_id in (BEN, EVA, KAI)
    assert (leader.configuration, leader.commit_index > 3) == (without(FIVE, LEO), True)


def test_a1_two_whose_leader_died_elect_one_of_them_though_both_ask() -> None:
    """raft-rs 84: pre-vote with check-quorum, and nobody was ever elected: whoever asked still vouched for the dead."""
    cast = Cast(TRIO)
    cast.elect(ANA)
    cast.crash(ANA)
    ben, eva = cast.replicas[BEN], cast.replicas[EVA]
    cast.now_ms = max(ben.next_deadline_ms(), eva.next_deadline_ms())
    ben.tick(cast.now_ms)
    eva.tick(cast.now_ms)
    assert (role(ben), role(eva)) == (Role.PRE_CANDIDATE, Role.PRE_CANDIDATE)
    cast.turn(BEN)
    cast.turn(EVA)
    cast.advance(2 * cast.config.election_timeout_ms)
    leader = cast.leader()
    assert leader is not None and leader.leader_id in (BEN, EVA)


def test_a2_an_acknowledgement_of_an_earlier_office_counts_for_nothing_in_the_next() -> None:
    """ra 516, openraft's sessions: ben's word of term 2 comes when ana leads term 4 and has another entry there."""
    cast = Cast(TRIO)
    ana = cast.elect(ANA)
    before = ana.commit_index
    late = AppendReply(ana.term, 1, True, LogIndex(before + 1), LogIndex(0), LogIndex(0), Term(0))
    cast.elect(BEN)
    cast.elect(ANA)
    cast.cut(ANA)
    cast.propose(ANA, b"new")
    cast.turn(ANA)
    commit = ana.commit_index
    ana.receive(BEN, late, cast.now_ms)
    assert ana.commit_index == commit
    assert ana.term > late.term


@pytest.mark.parametrize("seed", range(60))
def test_a3_a_read_asked_during_a_transfer_sees_what_the_next_leader_has_acknowledged(seed: int) -> None:
    """openraft 1ef3e574: ana hands over to ben, is asked for reads all the while, and messages come in any order. The
    cast checks each answer against all that is committed anywhere when it was asked.
    """
    dice = Random(seed)
    cast = Cast(TRIO, seed=seed)
    cast.elect(ANA)
    cast.propose(ANA, b"before")
    cast.deliver()
    assert cast.replicas[ANA].transfer(BEN, cast.now_ms)
    cast.turn(ANA)
    for read_id in range(40):
        asked = dice.choice([ANA, BEN])
        cast.read(asked, read_id)
        cast.propose(BEN, b"%d" % read_id)
        cast.turn(asked)
        cast.turn(BEN)
        for _ in range(dice.randint(0, 6)):
            if cast.wire:
                cast.deliver_one(dice.randrange(len(cast.wire)) if dice.random() < 0.5 else 0)
    cast.deliver()
    cast.advance(1_000)
    assert sum(len(reads) for reads in cast.reads.values()) > 0
    assert cast.replicas[BEN].term > 2


def test_a6_after_a_disk_error_no_late_confirmation_is_believed() -> None:
    """NATS 8290: what was on its way to the disk is confirmed after the error. Nothing comes of it."""
    cast = Cast(founding(ANA))
    ana = cast.elect(ANA)
    cast.lazy_disks = [ANA]
    cast.propose(ANA, b"on its way")
    cast.turn(ANA)
    before = ana.commit_index
    ana.disk_failed()
    ana.durable(cast.disks[ANA].sync(), cast.now_ms)
    ana.tick(cast.now_ms + 10_000)
    assert (ana.commit_index, role(ana), ana.next_deadline_ms()) == (before, Role.FOLLOWER, NEVER_MS)
    assert ana.take() is NO_OUTPUT
