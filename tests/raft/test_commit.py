"""What is committed: a majority's disks, and only entries of the leader's own term."""

from hypothesis import given
from hypothesis import strategies as st

from mesh.raft.commit import quorum_value
from mesh.raft.replica import Role
from tests.raft.cast import ANA, BEN, CONFIGURATION, EVA, KAI, Cast, encoded, founding, role
from tests.raft.test_replication import ok


@given(st.lists(st.integers(0, 9), min_size=1, max_size=7))
def test_the_quorum_value_is_the_largest_a_majority_reaches(values: list[int]) -> None:
    """Against the definition, for every size up to seven."""
    majority = len(values) // 2 + 1
    reached = [value for value in range(10) if sum(1 for its in values if its >= value) >= majority]
    assert quorum_value(list(values)) == reached[-1]


def test_a_leader_does_not_count_itself_before_its_own_disk() -> None:
    """ana's disk lags and eva is away: ben's copy alone commits nothing (etcd 14370)."""
    cast = Cast(founding(ANA, BEN, EVA))
    ana = cast.elect(ANA)
    cast.cut(EVA)
    cast.lazy_disks = [ANA]
    index = cast.propose(ANA, b"pay")
    cast.deliver()
    assert index == 3
    assert (ana.commit_index, ana.peers()[0]) == (2, (BEN, 3, "replicate"))
    cast.sync(ANA)
    assert ana.commit_index == 3


def test_others_may_commit_what_the_leaders_disk_lacks_but_it_is_not_applied_here_yet() -> None:
    """ben and eva have it on disk, so it is committed; ana hands it out only once its own disk has it."""
    cast = Cast(founding(ANA, BEN, EVA))
    ana = cast.elect(ANA)
    cast.lazy_disks = [ANA]
    cast.propose(ANA, b"pay")
    cast.deliver()
    assert (ana.commit_index, cast.data(ANA)) == (3, [])
    cast.sync(ANA)
    assert cast.data(ANA) == [b"pay"]


def test_a_mesh_of_one_commits_with_its_own_disk_and_not_before() -> None:
    """etcd 14370: a cluster of one answered before its write was durable."""
    cast = Cast(founding(ANA))
    cast.tick(ANA)
    cast.deliver()
    cast.lazy_disks = [ANA]
    cast.propose(ANA, b"pay")
    cast.deliver()
    assert cast.data(ANA) == []
    cast.sync(ANA)
    assert cast.data(ANA) == [b"pay"]


def test_two_of_two_are_needed() -> None:
    cast = Cast(founding(ANA, BEN))
    ana = cast.elect(ANA)
    cast.cut(BEN)
    cast.propose(ANA, b"pay")
    cast.deliver()
    assert ana.commit_index == 2


def test_a_learner_is_sent_everything_and_never_counted() -> None:
    """ben is away, kai learns: one voter of two is no majority, whatever kai holds."""
    cast = Cast(founding(ANA, BEN, learners=(KAI,)))
    ana = cast.elect(ANA)
    cast.cut(BEN)
    cast.propose(ANA, b"pay")
    cast.deliver()
    assert ana.commit_index == 2
    assert ana.peers() == [(BEN, 2, "replicate"), (KAI, 3, "replicate")]


def test_a_leader_that_is_removed_leaves_once_its_removal_is_committed() -> None:
    """ana leads and removes itself. Until that is committed it still leads, but does not count itself."""
    cast = Cast(founding(ANA, BEN, EVA))
    ana = cast.elect(ANA)
    rest = founding(BEN, EVA)
    cast.cut(ANA, EVA)
    assert cast.propose(ANA, encoded(rest), CONFIGURATION) == 3
    cast.deliver()
    assert (ana.serving, ana.commit_index) == (True, 2)
    cast.heal()
    cast.advance(50)
    assert (role(ana).value, ana.commit_index, ana.leader_id) == ("follower", 3, None)
    cast.advance(2_000)
    leader = cast.leader()
    assert leader is not None and leader.configuration == rest


def test_but_not_when_only_what_came_before_its_removal_is_committed() -> None:
    cast = Cast(founding(ANA, BEN, EVA))
    ana = cast.elect(ANA)
    assert cast.propose(ANA, b"pay") == 3
    cast.turn(ANA)
    assert cast.propose(ANA, encoded(founding(BEN, EVA)), CONFIGURATION) == 4
    for name in (BEN, EVA):
        ana.receive(name, ok(ana.term, 3), cast.now_ms)
    assert (ana.commit_index, role(ana)) == (3, Role.LEADER)
    for name in (BEN, EVA):
        ana.receive(name, ok(ana.term, 4), cast.now_ms)
    assert (ana.commit_index, role(ana)) == (4, Role.FOLLOWER)
