"""What a replica remembers."""

import pytest

from mesh.ids import Term
from tests.raft.cast import ANA, BEN, EVA, Cast, follower, founding

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
