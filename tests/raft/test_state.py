"""What a replica remembers."""

import pytest

from mesh.durable import Configuration, Member
from mesh.ids import LogIndex, Term
from tests.raft.cast import ANA, BEN, CONFIGURATION, EVA, KAI, Cast, encoded, entry, follower, founding

TRIO = founding(ANA, BEN, EVA)


def test_a_term_never_falls() -> None:
    ben = follower(TRIO, term=3)
    with pytest.raises(AssertionError, match="cannot follow"):
        ben._s.set_term_and_vote(Term(2), None)


@pytest.mark.parametrize("voted_for", [EVA, None])
def test_a_vote_once_given_stays(voted_for: str | None) -> None:
    ben = follower(TRIO, term=3)
    ben._s.set_term_and_vote(Term(3), ANA)
    with pytest.raises(AssertionError, match="cannot follow"):
        ben._s.set_term_and_vote(Term(3), voted_for)  # type: ignore[arg-type]


def test_peers_follow_the_configuration_and_keep_what_is_known_of_them() -> None:
    cast = Cast(TRIO)
    ana = cast.elect(ANA)
    known = ana._s.peers[BEN]
    ana._s.sync_peers()
    assert list(ana._s.peers) == [BEN, EVA]
    assert ana._s.peers[BEN] is known


@pytest.mark.parametrize(
    ("change", "committed", "loses"),
    [
        (founding(ANA, EVA, learners=(BEN,)), 1, True),
        (founding(ANA, EVA), 1, True),
        (founding(ANA, EVA, learners=(BEN,)), 2, False),
        (founding(ANA, BEN, learners=(EVA,)), 1, False),
        (Configuration((Member(ANA, "a:1"), Member(BEN, "b:1", "another log"), Member(EVA, "e:1"))), 1, False),
    ],
    ids=["becomes a learner", "is removed", "is gone for good", "is eva's", "was meant for another log all along"],
)
def test_a_vote_is_being_lost_from_the_entry_that_takes_it_until_that_is_committed(
    change: Configuration, committed: int, loses: bool
) -> None:
    ben = follower(TRIO)
    assert not ben._s.is_losing_vote
    ben._s.log.append(entry(2, 1, encoded(change), CONFIGURATION))
    ben._s.commit_index = LogIndex(committed)
    assert ben._s.is_losing_vote == loses


def test_who_never_had_a_vote_loses_none() -> None:
    kai = follower(founding(ANA, BEN, learners=(KAI,)), node_id=KAI)
    kai._s.log.append(entry(2, 1, encoded(founding(ANA, learners=(BEN, KAI))), CONFIGURATION))
    assert not kai._s.is_losing_vote
